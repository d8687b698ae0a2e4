"""`evaluate`: scores on several tasks, compared with a reference model."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import TRANSFORMERS_MODEL, DataError, ModelError, expect
from aerogel.evaluation.comparison import Comparison
from aerogel.evaluation.scoring import EVALUATION_SEED, check_head, predict
from aerogel.models import architecture
from aerogel.models.tokenizer import check_tokenizer
from aerogel.tables import html_table
from aerogel.tasks import InputSettings, Score, TaskData, TaskSource, is_table, load_for

COLUMNS = ("task", "metric", "value", "95% interval")


@dataclass(frozen=True, eq=False)
class TaskEvaluation(Mapping[str, float]):
    """A model's score on a task, and its comparison with a reference model.

    It is also a mapping of all its numbers: metrics, "examples" or "tokens", "majority", "kl", "kl_low", "kl_high",
    "agreement", "dense_accuracy", "flipped", ...
    """

    score: Score
    comparison: Comparison | None = None

    def to_dict(self) -> dict[str, float]:
        return self.score.to_dict() | (self.comparison.to_dict() if self.comparison else {})

    def __getitem__(self, name: str) -> float:
        return self.to_dict()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())


class Evaluation(dict[str, TaskEvaluation]):
    """Evaluations by the name of the task, shown as a table in notebooks."""

    def to_dict(self) -> dict[str, dict[str, float]]:
        return {task: evaluation.to_dict() for task, evaluation in self.items()}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Rows of a table with `COLUMNS`. Counts are whole numbers."""
        return [
            (task, name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}", _interval(numbers, name))
            for task, numbers in self.to_dict().items()
            for name, value in numbers.items()
            if not name.endswith(("_low", "_high"))
        ]

    def _repr_html_(self) -> str:
        return html_table(COLUMNS, self.rows())


def _interval(numbers: Mapping[str, float], name: str) -> str:
    if f"{name}_low" not in numbers:
        return ""
    return f"{numbers[f'{name}_low']:.4f} to {numbers[f'{name}_high']:.4f}"


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: TaskSource | Sequence[TaskSource],
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    reference: PreTrainedModel | None = None,
    max_length: int = 128,
) -> Evaluation:
    """Score a model on the validation split of each task, or its first `limit` examples or windows.

    `tasks` are names, files, data in memory or data from `aerogel.load_task`, or one of these. Data with one split is
    scored whole; `load_task(...).divided()` scores the part that training on it holds out. `data` is a folder of tasks,
    see `aerogel.load_task`. Data that is not from there is read for the model's head, with an `AerogelWarning` if its
    task needs another. Texts are cut to `max_length` tokens, which should be that of the training.

    With a dense `reference` model of the same tokenizer, each task except regression also compares the predictions of
    both: "kl", the mean KL(dense ‖ model) in nats; "agreement", the share of equal predictions; the reference's own
    metrics ("dense_accuracy"); for classes how many predictions flipped, with McNemar's p; and the ends of 95%
    bootstrap intervals ("kl_low", "kl_high"). All tasks are loaded and checked against the model's head before any is
    scored. Raises `DataError` or `ModelError`.

    >>> import aerogel as ag
    >>> model, tokenizer = ag.load("tiny-gpt2")
    >>> sorted(ag.evaluate(model, tokenizer, "python-reference", limit=2)["python-reference"])
    ['loss', 'perplexity', 'tokens']
    """
    models = [model] if reference is None else [model, reference]
    for scored in models:
        expect(scored, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    check_tokenizer(tokenizer, model)
    several = [tasks] if isinstance(tasks, str | os.PathLike | TaskData) or is_table(tasks) else tasks
    expect(several, Sequence, DataError, "the name or file of a task, TaskData (aerogel.load_task), or a list of them")
    loaded = [load_for(model, task, data) for task in several]
    names = [task.task.name for task in loaded]
    if repeated := [name for index, name in enumerate(names) if name in names[:index]]:
        raise DataError(
            f"two of the tasks have the name {repeated[0]}: rename a file, or score them one after the other"
        )
    if reference is not None:
        _check_comparable(model, reference)
    for scored in models:
        for task in loaded:
            check_head(scored, task.task)
    results = Evaluation()
    settings = InputSettings(limit, max_length, seed=EVALUATION_SEED)
    for task in loaded:
        run = predict(model, tokenizer, task, settings, reference if task.task.kind.is_compared else None)
        comparison = Comparison.of(run) if run.reference else None
        results[task.task.name] = TaskEvaluation(run.score(run.predictions), comparison)
    return results


def _check_comparable(model: PreTrainedModel, reference: PreTrainedModel) -> None:
    """Raises `ModelError` for a reference whose predictions are not comparable."""
    if architecture(reference.config) != architecture(model.config):
        raise ModelError(f"{type(model).__name__} and its reference {type(reference).__name__} differ in architecture")
    own, other = (getattr(of.config, "vocab_size", 0) for of in (model, reference))  # none for images
    if own != other:
        raise ModelError(f"the vocabulary of the model has {own:,} tokens, that of its reference {other:,}")
