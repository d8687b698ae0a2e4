"""Sensitivity: the KL divergence that pruning one layer, or one kind of matrix, causes on its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import TRANSFORMERS_MODEL, ModelError, PruningError, check_sparsity, expect
from aerogel.models import prunable_weights
from aerogel.pruning.calibration import CalibrationSource, as_calibration
from aerogel.pruning.fisher import output_gradients
from aerogel.pruning.kl import Reference
from aerogel.pruning.masking import dense_scores, masked_kl
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import one_shot_method

SPARSITIES = (0.3, 0.5, 0.7, 0.9)
TOKENS = 1024  # of the calibration text, for the KL divergence


@dataclass(frozen=True)
class Sensitivity:
    """KL(dense ‖ pruned) in nats a prediction, with one group of matrices pruned and all others dense.

    `layers` and `kinds` have one row a group: its name, and one value for each of `sparsities`.
    """

    model: str
    method: str
    text: str
    sparsities: tuple[float, ...]
    layers: tuple[tuple[str, tuple[float, ...]], ...]
    kinds: tuple[tuple[str, tuple[float, ...]], ...]


def sensitivity(
    model: PreTrainedModel,
    calibration: CalibrationSource,
    name: str = "",
    by: str = "magnitude",
    sparsities: Sequence[float] = SPARSITIES,
) -> Sensitivity:
    """Prunes each layer and each kind of matrix on its own, at each sparsity, by the scores of method `by`.

    The weights are restored afterwards. Raises `PruningError` for a method that needs training and for a sparsity
    outside [0, 1), `ModelError` for a model without predictions, and `DataError` for too short a text.
    """
    expect(model, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    source = as_calibration(calibration, model)
    for sparsity in sparsities:
        check_sparsity(sparsity, PruningError)
    method = one_shot_method(by)
    weights = prunable_weights(model)
    batches = source.batches(model)
    reference = Reference(model, batches, TOKENS)
    gradients = output_gradients(model, weights, batches, TOKENS, 0) if method.needs == "gradients" else {}
    score = dense_scores(model, weights, batches, gradients, method, 0)
    pattern = Pattern(per_row=method.scope == "row")
    layers = list(dict.fromkeys(weight.layer for weight in weights))
    kinds = list(dict.fromkeys(weight.kind for weight in weights))
    cells = [(group, sparsity) for group in (*layers, *kinds) for sparsity in sparsities]
    kls: dict[str, list[float]] = {group: [] for group in (*layers, *kinds)}
    for group, sparsity in progress.track(cells, "measuring sensitivity"):
        shares = {weight.name: sparsity for weight in weights if group in (weight.layer, weight.kind)}
        kls[group].append(masked_kl(model, shares, weights, score, pattern, reference))
    return Sensitivity(
        name or type(model).__name__,
        method.name,
        source.name,
        tuple(sparsities),
        tuple((layer, tuple(kls[layer])) for layer in layers),
        tuple((kind, tuple(kls[kind])) for kind in kinds),
    )
