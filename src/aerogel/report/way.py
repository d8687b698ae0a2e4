"""How a model became sparse: what the lines of a chart and the rows of a table tell apart beside the model."""

from __future__ import annotations

from typing import NamedTuple

from aerogel.study import StudySpec, Trial

RECOVERY_NAMES = {"none": "no recovery", "finetune": "fine-tuning", "gradual": "gradual + distillation"}


class Way(NamedTuple):
    """The method that pruned, and the recovery where the study has them.

    Without a method it is the dense model, or one that was pruned while it trained, by a score of its own.
    """

    method: str | None = None
    recovery: str | None = None

    @property
    def dense(self) -> Way:
        """That of the dense model which was trained alike."""
        return Way(None, self.recovery)


def way_of(trial: Trial) -> Way:
    return Way(trial.pruning.method if trial.pruning else None, trial.recovery.name if trial.recovery else None)


def scored_ways(spec: StudySpec) -> tuple[Way, ...]:
    """In the order of the specification."""
    if not spec.recoveries:
        return measured_ways(spec)
    return tuple(
        Way(method, recovery)
        for recovery in spec.recoveries
        for method in (spec.methods if recovery != "gradual" else (None,))
    )


def measured_ways(spec: StudySpec) -> tuple[Way, ...]:
    """Time, memory and bytes hang on how many zeros there are, not on how they were recovered from."""
    return tuple(Way(method) for method in spec.methods)


def measured_way(spec: StudySpec, way: Way) -> Way:
    """The one whose time, memory and bytes stand for it."""
    return Way(way.method or spec.methods[0])


def way_name(spec: StudySpec, way: Way) -> str:
    """What tells it from the study's others; empty where there is nothing to tell."""
    method = way.method if len(spec.methods) > 1 else None
    return ", ".join(part for part in (method, RECOVERY_NAMES.get(way.recovery or "")) if part)


def series_name(spec: StudySpec, model: str, way: Way) -> str:
    """The model, with the way where there are several."""
    name = way_name(spec, way)
    return f"{model} ({name})" if name else model
