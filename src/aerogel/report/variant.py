"""How a model became sparse: what the lines of a chart and the rows of a table tell apart beside the model."""

from __future__ import annotations

from typing import NamedTuple

from aerogel.study import StudySpec, Trial

RECOVERY_NAMES = {"none": "no recovery", "finetune": "fine-tuning", "gradual": "gradual + distillation"}


class Variant(NamedTuple):
    """The method that pruned, and the recovery where the study has them.

    Without a method it is the dense model, or one that was pruned while it trained, by a score of its own.
    """

    method: str | None = None
    recovery: str | None = None

    @property
    def dense(self) -> Variant:
        """That of the dense model which was trained alike."""
        return Variant(None, self.recovery)


def variant_of(trial: Trial) -> Variant:
    return Variant(trial.pruning.method if trial.pruning else None, trial.recovery.name if trial.recovery else None)


def scored_variants(spec: StudySpec) -> tuple[Variant, ...]:
    """In the order of the specification."""
    if not spec.recoveries:
        return measured_variants(spec)
    return tuple(
        Variant(method, recovery)
        for recovery in spec.recoveries
        for method in (spec.methods if recovery != "gradual" else (None,))
    )


def measured_variants(spec: StudySpec) -> tuple[Variant, ...]:
    """Time, memory and bytes hang on how many zeros there are, not on how they were recovered from."""
    return tuple(Variant(method) for method in spec.methods)


def measured_variant(spec: StudySpec, way: Variant) -> Variant:
    """The one whose time, memory and bytes stand for it."""
    return Variant(way.method or spec.methods[0])


def variant_name(spec: StudySpec, way: Variant) -> str:
    """What tells it from the study's others; empty where there is nothing to tell."""
    method = way.method if len(spec.methods) > 1 else None
    return ", ".join(part for part in (method, RECOVERY_NAMES.get(way.recovery or "")) if part)


def series_name(spec: StudySpec, model: str, way: Variant) -> str:
    """The model, with the way where there are several."""
    name = variant_name(spec, way)
    return f"{model} ({name})" if name else model
