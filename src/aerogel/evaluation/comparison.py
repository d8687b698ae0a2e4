"""What pruning did to a model's answers that its score may hide: divergence, agreement and flips, with intervals."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binomtest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import TRANSFORMERS_MODEL, DataError, ModelError, expect
from aerogel.evaluation.scoring import (
    PERPLEXITIES,
    Tally,
    answers_of,
    check_head,
    label_logits,
    language_batches,
    score,
    score_labels,
    token_logits,
)
from aerogel.models import architecture
from aerogel.models.logits import kl_divergence
from aerogel.tasks import TaskData, load_task

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with a 95% bootstrap interval over texts."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(
        cls,
        sums: Sequence[float] | np.ndarray,
        counts: Sequence[float] | np.ndarray | None = None,
        transform: Callable[[np.ndarray], np.ndarray] = lambda mean: mean,
    ) -> Interval:
        """The mean over all answers of texts that hold `sums` over `counts` answers each (one, unless given).

        Texts are drawn again with replacement, since the answers within one hang together (percentile bootstrap,
        Efron 1979); `transform` turns a mean into what is reported. The same data gives the same interval.
        """
        total = np.asarray(sums, dtype=float)
        size = np.ones(len(total)) if counts is None else np.asarray(counts, dtype=float)
        generator = np.random.default_rng(0)
        draws = (generator.integers(0, len(total), len(total)) for _ in range(RESAMPLES))  # all at once fill the memory
        means = transform(np.array([total[draw].sum() / size[draw].sum() for draw in draws]))
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(transform(total.sum() / size.sum())), float(low), float(high))

    def named(self, name: str) -> dict[str, float]:
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Flips:
    """Answers that changed against the dense model: `lost` were right and are wrong, `gained` the other way about.

    `flipped` counts all that changed, from one wrong class to another too. `p` is McNemar's: how likely a split of
    the lost and gained at least as uneven is by chance, if both models are right equally often (exact binomial).
    """

    flipped: int
    lost: int
    gained: int

    @property
    def p(self) -> float:
        changed = self.lost + self.gained
        return float(binomtest(self.lost, changed).pvalue) if changed else 1.0

    @classmethod
    def of(cls, predicted: np.ndarray, dense: np.ndarray, true: np.ndarray) -> Flips:
        was, now = dense == true, predicted == true
        return cls(int((predicted != dense).sum()), int((was & ~now).sum()), int((now & ~was).sum()))

    def named(self) -> dict[str, float]:
        return {"flipped": self.flipped, "lost": self.lost, "gained": self.gained, "mcnemar_p": self.p}


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: str | os.PathLike[str] | TaskData | Sequence[str | os.PathLike[str] | TaskData],
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    reference: PreTrainedModel | None = None,
) -> dict[str, dict[str, float]]:
    """The metrics of each task on its validation split, or its first `limit` examples or windows.

    `tasks` are names, files or data that `aerogel.load_task` gave, or one of these. Data with one split is scored
    whole; `load_task(...).divided()` scores what was held out of a training on it. `data` is a folder of tasks, see
    `aerogel.tasks.load_task`.

    With a dense `reference` of the same tokenizer, each task but regression also tells what its metric may hide: "kl",
    the mean KL(dense ‖ model) of the answers in nats; "agreement", the share of equal answers; the reference's own
    metrics; for classes how many answers flipped, with McNemar's p; each mean with the ends of its 95% bootstrap
    interval ("kl_low", "kl_high"). All tasks are found and checked against the model's head before any is scored.
    Raises `DataError` or `ModelError`.
    """
    for judged in [model] if reference is None else [model, reference]:
        expect(judged, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    expect(tokenizer, PreTrainedTokenizerBase, ModelError, "a tokenizer of transformers (aerogel.load gives one)")
    several = [tasks] if isinstance(tasks, str | os.PathLike | TaskData) else tasks
    expect(several, Sequence, DataError, "the name or file of a task, TaskData (aerogel.load_task), or a list of them")
    loaded = [task if isinstance(task, TaskData) else load_task(task, data) for task in several]
    names = [task.task.name for task in loaded]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise DataError(f"two of the tasks are named {twice[0]}, by which results are told apart: rename a file")
    if reference is not None and architecture(reference.config) != architecture(model.config):
        raise ModelError(
            f"{type(model).__name__} and its reference {type(reference).__name__} are of other architectures: their "
            "answers can't be compared"
        )
    if reference is not None and reference.config.vocab_size != model.config.vocab_size:
        raise ModelError(
            f"the model has {model.config.vocab_size:,} words and its reference {reference.config.vocab_size:,}: with "
            "other words their answers can't be compared"
        )
    for judged in [model] if reference is None else [model, reference]:
        for task in loaded:
            check_head(judged, task.task)
    results = {}
    for task in loaded:
        if reference is None or task.task.is_regression:
            results[task.task.name] = dict(score(model, tokenizer, task, limit).metrics)
        elif task.task.is_language_modelling:
            results[task.task.name] = _compare_language(model, reference, tokenizer, task, limit)
        else:
            results[task.task.name] = _compare_labels(model, reference, tokenizer, task, limit)
    return results


def _compare_labels(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    limit: int | None,
) -> dict[str, float]:
    logits = label_logits(model, tokenizer, data, limit)
    dense = label_logits(reference, tokenizer, data, limit)
    scored, before = score_labels(data, limit, logits), score_labels(data, limit, dense)
    predicted, expected = answers_of(data, logits), answers_of(data, dense)
    true = np.array(data.examples("validation").first(limit).labels)
    return {
        **scored.metrics,
        **{f"dense_{name}": before.metrics[name] for name in data.task.metrics},
        **Interval.of(kl_divergence(torch.from_numpy(dense), torch.from_numpy(logits)).numpy()).named("kl"),
        **Interval.of(predicted == expected).named("agreement"),
        **Flips.of(predicted, expected, true).named(),
    }


def _compare_language(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    limit: int | None,
) -> dict[str, float]:
    measure = PERPLEXITIES[architecture(model.config)]
    own, dense = Tally(data.task.name, measure), Tally(data.task.name, measure)
    divergences: list[float] = []
    equals: list[float] = []
    for batch in language_batches(model, tokenizer, data, limit):
        logits, labels, windows = token_logits(model, batch)
        expected, _, _ = token_logits(reference, batch)
        own.add(logits, labels, windows)
        dense.add(expected, labels, windows)
        parts = zip(expected.split(1024), logits.split(1024), strict=True)
        moved = torch.cat([kl_divergence(before, after) for before, after in parts])
        divergences += torch.bincount(windows, moved.double()).tolist()
        equals += torch.bincount(windows, (logits.argmax(-1) == expected.argmax(-1)).double()).tolist()
    return {
        **own.score().metrics,
        **Interval.of(own.losses, own.counts, np.exp).named(measure),
        f"dense_{measure}": dense.score().metrics[measure],
        **Interval.of(divergences, own.counts).named("kl"),
        **Interval.of(equals, own.counts).named("agreement"),
    }
