"""The table of tasks: their kinds, their data sets on the hub, columns, labels and metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aerogel.errors import ModelError

if TYPE_CHECKING:  # the table needs no torch
    from transformers import PreTrainedModel

    from aerogel.models import Head
    from aerogel.tasks.kind import TaskKind

Split = Literal["train", "validation"]
FILE_KINDS = {".tsv": "sentence_classification", ".txt": "language_modelling"}
"""The kind of task of a user's own file, by its suffix."""


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
        from aerogel.tasks.kinds import all_kinds

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


def _glue(
    name: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: str, validation: str = "validation"
) -> Task:
    kind = "sentence_classification" if len(labels) > 1 else "sentence_regression"
    return Task(name, kind, columns, labels, metrics, ("nyu-mll/glue", name), validation)


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    task.name: task
    for task in (
        _glue("sst2", ("sentence",), ("negative", "positive"), "accuracy"),
        _glue("mrpc", PAIR, ("not_equivalent", "equivalent"), "combined", "accuracy", "f1"),
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews"),
        _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), "combined", "accuracy", "f1"),
        _glue("stsb", PAIR, ("similarity",), "correlation", "pearson", "spearman"),
        _glue(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            "accuracy",
            validation="validation_matched",
        ),
        _glue("qnli", ("question", "sentence"), ENTAILMENT, "accuracy"),
        _glue("rte", PAIR, ENTAILMENT, "accuracy"),
        _glue("wnli", PAIR, ("not_entailment", "entailment"), "accuracy"),
        Task("movie-reviews", "sentence_classification", ("sentence",), ("negative", "positive"), ("accuracy",)),
        Task("wikitext-2", "language_modelling", hub=("Salesforce/wikitext", "wikitext-2-raw-v1")),
        Task("python-reference", "language_modelling"),
    )
}
