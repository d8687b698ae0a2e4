"""Tasks, and what a kind of task provides: everything in which sentence classification and others differ."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from aerogel.errors import ModelError
from aerogel.registry import entries

if TYPE_CHECKING:  # a table of tasks needs no torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from aerogel.models import Head
    from aerogel.tasks.predictions import Answers, Batch, Inputs, InputSettings, Predictions, Score

Split = Literal["train", "validation"]
Content = Any
"""The data of a split, of a type that its kind of task chooses."""


@dataclass(frozen=True)
class Task:
    """A task, without its data.

    Attributes:
        kind_name: the file of its kind in `aerogel.tasks.kinds`.
        columns: the text columns, one for sentences, two for pairs; none for language modelling.
        labels: names in the order of the class numbers, or one name for a value; for a user's own file empty until it
            is read.
        metrics: keys of `aerogel.tasks.metrics.METRICS`; the first is the main one. For language modelling the
            architecture decides.
        hub: data set and configuration on the Hugging Face hub, if it is there.
        hub_validation: the hub's name of the validation split.
    """

    name: str
    kind_name: str
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    hub: tuple[str, str] | None = None
    hub_validation: str = "validation"

    @property
    def kind(self) -> TaskKind:
        return all_kinds()[self.kind_name]

    @property
    def head(self) -> Head:
        from aerogel.models import Head

        return Head(self.kind.head, self.labels)

    def check_head(self, model: PreTrainedModel, advice: str) -> None:
        """Raises `ModelError`, with `advice` on what to do, if the model's head does not fit the task.

        Names of labels are compared unless one side only numbers them.
        """
        from aerogel.models import head_kind

        found, needed = head_kind(model), self.kind.head
        if found != needed:
            has = "none" if found == "none" else f"one for {found}"
            raise ModelError(f"task {self.name} needs a {needed} head and {type(model).__name__} has {has}: {advice}")
        if not self.labels:
            return
        if model.config.num_labels != len(self.labels):
            labels = f"{len(self.labels)} labels and the model's head {model.config.num_labels}"
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
        suffix: of the files that hold a split.
        unit: what a limit counts.
        reads_labels: whether the decoder of an encoder-decoder reads the labels; otherwise it reads the inputs.
        is_compared: whether predictions are compared with those of a reference model by divergence and agreement.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    suffix: ClassVar[str]
    unit: ClassVar[Literal["examples", "windows"]]
    reads_labels: ClassVar[bool] = False
    is_compared: ClassVar[bool] = True

    @abstractmethod
    def read(self, task: Task, files: Mapping[str, Path]) -> tuple[Task, dict[str, Content]]:
        """The splits in files, and the task with the columns, labels and metrics that a user's own file defines."""

    @abstractmethod
    def from_hub(self, task: Task, rows: Any) -> Content:
        """A split of a data set of the Hugging Face hub."""

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

    @abstractmethod
    def answers(self, output: Any, batch: Batch, model: PreTrainedModel) -> Answers:
        """What the output of a model for a batch with labels holds at the positions to score, compare and distil."""

    def predictions(self, answers: Answers) -> Predictions:
        """The predictions of a batch: unless a kind overrides it, the most likely classes."""
        from aerogel.tasks.predictions import most_likely

        return most_likely(answers)

    @abstractmethod
    def score(self, task: Task, inputs: Inputs, predictions: Predictions, config: PretrainedConfig) -> Score:
        """The metrics of the predictions on a split."""

    def distillation_loss(self, student: Answers, teacher: Answers, temperature: float) -> Tensor:
        """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), the mean over predictions."""
        from aerogel.models.logits import kl_divergence

        return temperature**2 * kl_divergence(teacher.logits / temperature, student.logits / temperature).mean()


@cache
def all_kinds() -> dict[str, TaskKind]:
    """All kinds by name: the `KIND` of every module in `aerogel.tasks.kinds`."""
    return entries("aerogel.tasks.kinds", "KIND")
