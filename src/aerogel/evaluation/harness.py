"""Scores of EleutherAI's lm-evaluation-harness, where it is installed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import TRANSFORMERS_MODEL, DataError, ModelError, expect, first_line
from aerogel.models import architecture, head_kind

COLUMNS = ("task", "metric", "value", "standard error")
BATCH_SIZE = 8


@dataclass(frozen=True)
class HarnessScore:
    """A metric of a task. `filter` is the harness's name of how answers are extracted from generated text."""

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None

    def row(self) -> list[str]:
        name = self.metric if self.filter == "none" else f"{self.metric} ({self.filter})"
        return [self.task, name, f"{self.value:.4f}", "" if self.stderr is None else f"{self.stderr:.4f}"]


def evaluate_harness(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], limit: int | None = None
) -> list[HarnessScore]:
    """Scores a language model, dense or packed, on tasks of the harness: names, patterns or paths of YAML files.

    With `limit`, on the first examples of each task only. Raises `ModelError` if lm-eval is not installed and for a
    model that is not a decoder or encoder-decoder with a language-modelling head, and `DataError` for tasks that the
    harness can't find or load.
    """
    expect(model, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    if architecture(model.config) == "encoder" or head_kind(model) != "language-modelling":
        raise ModelError(
            "the harness needs a decoder or encoder-decoder with a language-modelling head: found "
            f"{type(model).__name__}"
        )
    try:
        from lm_eval import simple_evaluate
        from lm_eval.config.evaluate_config import EvaluatorConfig
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ModelError(f"--harness needs lm-evaluation-harness ({first_line(error)}): pip install lm-eval") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        config = EvaluatorConfig(tasks=list(tasks))
        manager = config.process_tasks()
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_SIZE)
        results = simple_evaluate(wrapped, tasks=config.tasks, task_manager=manager, limit=limit, log_samples=False)
    except Exception as error:  # whatever a task's data or its own functions raise
        raise DataError(f"the harness can't score {', '.join(tasks)}: {first_line(error)}") from error
    return [score for task, metrics in results["results"].items() for score in _scores(task, metrics)]


def _scores(task: str, metrics: dict[str, object]) -> list[HarnessScore]:
    """Of the harness's `{"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": ...}`."""
    scores = []
    for key, value in metrics.items():
        name, comma, filtering = key.partition(",")
        if comma and isinstance(value, int | float) and not name.endswith("_stderr"):
            stderr = metrics.get(f"{name}_stderr,{filtering}")
            known = float(stderr) if isinstance(stderr, int | float) else None
            scores.append(HarnessScore(task, name, filtering, float(value), known))
    return scores
