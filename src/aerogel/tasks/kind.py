"""Tasks, and what a kind of task provides: everything in which sentence classification and others differ."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from aerogel.errors import ModelError
from aerogel.registry import entries
from aerogel.tables import counted

if TYPE_CHECKING:  # a table of tasks needs no torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from aerogel.models import Head
    from aerogel.models.loading import Architecture
    from aerogel.tasks.metrics import Metric
    from aerogel.tasks.predictions import Answers, Batch, Inputs, InputSettings, Predictions, Score
    from aerogel.tasks.rows import Role, Rows

Split = Literal["train", "validation"]
SEVERAL_LABELS = "multi_label_classification"  # the problem_type of a configuration
Content = Any
"""The data of a split, of a type that its kind of task chooses."""


@dataclass(frozen=True)
class Task:
    """A task, without its data.

    Attributes:
        kind_name: the file of its kind in `aerogel.tasks.kinds`.
        columns: the columns of its data set by the roles of its kind, where their names are not usual for them.
        labels: names in the order of the class numbers, or one name for a value; for a user's own file empty until it
            is read.
        metrics: keys of `aerogel.tasks.metrics.METRICS`; the first is the main one. For language modelling the
            architecture decides.
        hub: data set and configuration, if there are several, on the Hugging Face hub, if it is there.
        hub_validation: the hub's name of the validation split.
        own_metrics: those of the user, which come before `metrics`.
        hub_train: that of the training split; `None` if there is only the other.
    """

    name: str
    kind_name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    hub: tuple[str, str | None] | None = None
    hub_validation: str = "validation"
    own_metrics: tuple[Metric, ...] = ()
    hub_train: str | None = "train"

    @property
    def kind(self) -> TaskKind:
        return all_kinds()[self.kind_name]

    @property
    def head(self) -> Head:
        from aerogel.models import Head

        return Head(self.kind.head, self.labels, self.kind.problem_type)

    def metric(self, name: str) -> Metric | None:
        """A metric of the user or of `METRICS`, `None` for another name."""
        from aerogel.tasks.metrics import METRICS

        return next((metric for metric in self.own_metrics if metric.name == name), METRICS.get(name))

    def check_head(self, model: PreTrainedModel, advice: str) -> None:
        """Raises `ModelError`, with `advice` on what to do, if the model's head does not fit the task.

        Names of labels are compared unless one side only numbers them.
        """
        from aerogel.models import architecture, head_kind

        needed_architecture = self.kind.architecture
        if needed_architecture is not None and (actual := architecture(model.config)) != needed_architecture:
            raise ModelError(
                f"task {self.name} needs the architecture {needed_architecture}, found {actual} "
                f"({type(model).__name__}): choose another model"
            )
        found, needed = head_kind(model), self.kind.head
        if found != needed:
            article = "an" if needed[0] in "aeiou" else "a"
            needs = "a model without a head" if needed == "embedding" else f"{article} {needed} head"
            has = {"embedding": "none", "other": "another"}.get(found, f"one for {found}")
            raise ModelError(f"task {self.name} needs {needs} and {type(model).__name__} has {has}: {advice}")
        for_several = model.config.problem_type == SEVERAL_LABELS
        if for_several != (self.kind.problem_type == SEVERAL_LABELS):
            needs, has = ("one label", "several") if for_several else ("several labels", "one")
            raise ModelError(
                f"task {self.name} needs a head for {needs} of a text and the model's is for {has} "
                f"(problem_type {model.config.problem_type} in its configuration): {advice}"
            )
        if not self.labels:
            return
        if model.config.num_labels != len(self.labels):
            labels = f"{counted(len(self.labels), 'label')} and the model's head {model.config.num_labels}"
            raise ModelError(f"task {self.name} has {labels}: {advice}")
        ours = [label.lower() for label in self.labels]
        theirs = [str(model.config.id2label[number]).lower() for number in range(len(ours))]
        named = len(ours) > 1 and not any(all(map(_is_number, names)) for names in (ours, theirs))
        if ours != theirs and (named or sorted(ours) == sorted(theirs)):
            raise ModelError(
                f"task {self.name} has the labels {', '.join(ours)} and the model's head {', '.join(theirs)}, "
                "expected the same in the same order; change id2label in the model's config.json if they mean the same"
            )


def _is_number(label: str) -> bool:
    return re.fullmatch(r"(label_)?-?\d+", label) is not None


class TaskKind(ABC):
    """A kind of task: how its data is read, becomes a model's inputs, and how the model's outputs are scored.

    One file a kind in `aerogel.tasks.kinds` defines `KIND`; an entry of `aerogel.tasks.table.TASKS` names it.

    Attributes:
        name: that of the file.
        head: of the model, a key of `aerogel.models.loading.HEADS`.
        problem_type: of its configuration, if this kind needs a particular one.
        architecture: of the model, if this kind needs a particular one.
        roles: what it needs from the columns of its data.
        unit: what a limit counts.
        validation_limit: the most examples or windows to score after each epoch of a training.
        reads_labels: whether the decoder of an encoder-decoder reads the labels; otherwise it reads the inputs.
        is_compared: whether predictions are compared with those of a reference model by divergence and agreement.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    problem_type: ClassVar[str | None] = None
    architecture: ClassVar[Architecture | None] = None
    roles: ClassVar[tuple[Role, ...]]
    unit: ClassVar[Literal["examples", "windows"]] = "examples"
    validation_limit: ClassVar[int | None] = None
    reads_labels: ClassVar[bool] = False
    is_compared: ClassVar[bool] = True

    def fits(self, rows: Rows) -> bool:
        """Whether a user's own data, whose columns have the names of the roles, is of this kind by its values."""
        return True

    @abstractmethod
    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, Content]]:
        """The splits, from rows with the roles as columns, and the task with the labels and metrics of a user's own.

        Raises `DataError`, by `Rows.error`, for a value that is not what its role needs.
        """

    @abstractmethod
    def divide(self, content: Content, source: str) -> dict[str, Content]:
        """A "train" and a "validation" part, the same each time. Raises `DataError` naming the `source`."""

    @abstractmethod
    def inputs(
        self, content: Content, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, settings: InputSettings
    ) -> Inputs:
        """The split as a model's inputs, for training and scoring."""

    @abstractmethod
    def calibration_rows(
        self, content: Content, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, settings: InputSettings
    ) -> list[dict[str, Tensor]]:
        """Unpadded inputs drawn by the seed, at most as many as hold `limit` times `max_length` tokens.

        A row has "labels" only if the decoder of an encoder-decoder reads them.
        """

    def outputs(self, model: PreTrainedModel, batch: Batch, **options: Any) -> Any:
        """The model's output for a batch, which has labels in training and if `reads_labels`."""
        return model(**batch, **options)

    def loss(self, output: Any, batch: Batch, model: PreTrainedModel) -> Tensor:
        """The loss of an output for a batch with labels, the mean over the batch."""
        loss: Tensor = output.loss
        return loss

    def has_labels(self, content: Content) -> bool:
        """Whether the split has what `loss` needs; without it a model learns from a teacher alone."""
        return True

    @abstractmethod
    def answers(self, output: Any, batch: Batch, model: PreTrainedModel) -> Answers:
        """What the output of a model for a batch with labels holds at the positions to score, compare and distil.

        Each is a prediction of one class among several, so that one divergence and one loss do for all kinds: a text
        with several labels is one prediction of two classes a label, a span is a prediction of its first and one of its
        last position.
        """

    def predictions(self, answers: Answers) -> Predictions:
        """The predictions of a batch: unless a kind overrides it, the most likely classes."""
        from aerogel.tasks.predictions import most_likely

        return most_likely(answers)

    def predict(self, model: PreTrainedModel, inputs: Inputs, batch: Batch, answers: Answers) -> Predictions:
        """The predictions of a batch of `inputs`, where a kind needs more of the model than one output (generation)."""
        return self.predictions(answers)

    def complete(self, inputs: Inputs, predictions: Predictions) -> Predictions:
        """The predictions as they are scored, from those of all batches: the same unless rows belong together."""
        return predictions

    @abstractmethod
    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        """The metrics of the predictions on a split."""

    def divergence(self, reference: Answers, answers: Answers) -> Tensor:
        """KL(reference ‖ model) of each answer, in nats: (predictions)."""
        import torch

        from aerogel.models.logits import kl_divergence

        parts = zip(reference.logits.split(1024), answers.logits.split(1024), strict=True)
        return torch.cat([kl_divergence(before, after) for before, after in parts])

    def distillation_loss(self, student: Answers, teacher: Answers, temperature: float) -> Tensor:
        """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), the mean over predictions."""
        from aerogel.models.logits import kl_divergence

        return temperature**2 * kl_divergence(teacher.logits / temperature, student.logits / temperature).mean()


@cache
def all_kinds() -> dict[str, TaskKind]:
    """All kinds by name: the `KIND` of every module in `aerogel.tasks.kinds`."""
    return entries("aerogel.tasks.kinds", "KIND")
