"""Sensitivity: what pruning one layer, or one kind of matrix, alone does to a model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.figure import Figure
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import TRANSFORMERS_MODEL, ModelError, PruningError, check_sparsity, expect
from aerogel.models import on_cpu, prunable_weights
from aerogel.pruning.calibration import Calibration
from aerogel.pruning.kl import Reference, output_gradients
from aerogel.pruning.masking import dense_scores, masked_kl
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, one_shot_method

SPARSITIES = (0.3, 0.5, 0.7, 0.9)
TOKENS = 1024  # of the calibration text that every cell is measured on


@dataclass(frozen=True)
class Sensitivity:
    """KL(dense ‖ pruned) in nats an answer, with one group of matrices pruned and all else dense.

    `layers` and `kinds` have a row a group: its name, and one value a sparsity.
    """

    model: str
    method: str
    text: str
    sparsities: tuple[float, ...]
    layers: tuple[tuple[str, tuple[float, ...]], ...]
    kinds: tuple[tuple[str, tuple[float, ...]], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sensitivity:
        """The inverse of `to_dict`, after a way through JSON."""
        groups = {by: tuple((name, tuple(cells)) for name, cells in values[by]) for by in ("layers", "kinds")}
        return cls(**{**values, **groups, "sparsities": tuple(values["sparsities"])})

    def plot(self) -> Figure:
        """A heat map of layers above one of kinds."""
        from aerogel.analysis.plot import heat_map

        rows = [*self.layers, *self.kinds]
        return heat_map(rows, self.sparsities, f"{self.model}, pruned by {self.method}", split=len(self.layers))


def sensitivity(
    model: PreTrainedModel,
    calibration: Calibration,
    name: str = "",
    by: str = "magnitude",
    sparsities: Sequence[float] = SPARSITIES,
    seed: int = 0,
) -> Sensitivity:
    """Prunes each layer and each kind of matrix alone, at each sparsity, by the scores of method `by`.

    The model is left as it was. Raises `PruningError` for a method that needs training and for a sparsity outside
    [0, 1), `ModelError` for a model without a head, `DataError` for too short a text.
    """
    expect(model, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    expect(calibration, Calibration, PruningError, "calibration text (aerogel.calibration gives it)")
    for sparsity in sparsities:
        check_sparsity(sparsity, PruningError)
    with on_cpu(model):
        return _measure(model, calibration, name, one_shot_method(by), sparsities, seed)


def _measure(
    model: PreTrainedModel,
    calibration: Calibration,
    name: str,
    chosen: PruningMethod,
    sparsities: Sequence[float],
    seed: int,
) -> Sensitivity:
    weights = prunable_weights(model)
    batches = calibration.batches(model)
    reference = Reference(model, batches, TOKENS)
    gradients = output_gradients(model, weights, batches, TOKENS, seed) if chosen.needs == "gradients" else {}
    score = dense_scores(model, weights, batches, gradients, chosen, seed)
    pattern = Pattern(per_row=chosen.scope == "row")
    layers = list(dict.fromkeys(weight.layer for weight in weights))
    kinds = list(dict.fromkeys(weight.kind for weight in weights))
    cells = [(group, sparsity) for group in (*layers, *kinds) for sparsity in sparsities]
    found: dict[str, list[float]] = {group: [] for group in (*layers, *kinds)}
    for group, sparsity in progress.track(cells, "measuring sensitivity"):
        shares = {weight.name: sparsity for weight in weights if group in (weight.layer, weight.kind)}
        found[group].append(masked_kl(model, shares, weights, score, pattern, reference))
    return Sensitivity(
        name or type(model).__name__,
        chosen.name,
        calibration.name,
        tuple(sparsities),
        tuple((layer, tuple(found[layer])) for layer in layers),
        tuple((kind, tuple(found[kind])) for kind in kinds),
    )
