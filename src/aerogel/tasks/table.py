"""The table of tasks: where each is found on the hub, its columns, its labels and its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aerogel.errors import ModelError

if TYPE_CHECKING:  # the table is there without torch
    from transformers import PreTrainedModel

    from aerogel.models import Head

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class Task:
    """What is asked of a model.

    Attributes:
        columns: the text columns, one for sentences, two for pairs; empty for language modelling.
        labels: names in the order of the label numbers; one name for a number to predict (regression);
            empty until the data is read, for a user's own file.
        metrics: keys of `aerogel.evaluation.metrics`; the first is the main one.
        hub: data set and configuration on the Hugging Face hub, if it is there.
        hub_validation: the hub's name of the validation split.
    """

    name: str
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    hub: tuple[str, str] | None = None
    hub_validation: str = "validation"

    @property
    def is_language_modelling(self) -> bool:
        return not self.columns

    @property
    def is_regression(self) -> bool:
        return len(self.labels) == 1

    @property
    def head(self) -> Head:
        from aerogel.models import Head

        return Head("language-modelling") if self.is_language_modelling else Head("classification", self.labels)

    def check_head(self, model: PreTrainedModel, advice: str) -> None:
        """Raises `ModelError`, with `advice` on what to do, where a model does not have the head for this task."""
        from aerogel.models import head_kind

        found = head_kind(model)
        if found != self.head.kind:
            has = "none" if found == "none" else f"one for {found}"
            needs = f"task {self.name} needs a {self.head.kind} head and {type(model).__name__} has {has}"
            raise ModelError(f"{needs}: {advice}")
        if self.is_language_modelling:
            return
        if model.config.num_labels != len(self.labels):
            labels = f"{len(self.labels)} labels and the model's head {model.config.num_labels}"
            raise ModelError(f"task {self.name} has {labels}: {advice}")
        ours = [label.lower() for label in self.labels]
        theirs = [str(model.config.id2label[place]).lower() for place in range(len(ours))]
        if ours != theirs and sorted(ours) == sorted(theirs):
            raise ModelError(
                f"task {self.name} counts its labels as {', '.join(ours)} and the model's head as {', '.join(theirs)}: "
                f"its answers would be taken for one another"
            )


def _glue(
    name: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: str, validation: str = "validation"
) -> Task:
    return Task(name, columns, labels, metrics, ("nyu-mll/glue", name), validation)


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
        Task("movie-reviews", ("sentence",), ("negative", "positive"), ("accuracy",)),
        Task("wikitext-2", hub=("Salesforce/wikitext", "wikitext-2-raw-v1")),
        Task("python-reference"),
    )
}
