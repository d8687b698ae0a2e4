"""Remove structures of a model in place, until it is as fast or as small as a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from aerogel.errors import TRANSFORMERS_MODEL, ModelError, PruningError, expect
from aerogel.pruning.batches import Batch
from aerogel.pruning.blocks import walk
from aerogel.pruning.calibration import CalibrationSource, as_calibration
from aerogel.pruning.fisher import output_fisher
from aerogel.pruning.kl import Reference
from aerogel.structure.budget import Budget
from aerogel.structure.config import StructureConfig
from aerogel.structure.counts import uneven_counts, uniform_counts
from aerogel.structure.latency import LatencyTable, Measure, TorchMeasure, latency_table
from aerogel.structure.outputs import Inputs, OutputMatrix, keep_compensated
from aerogel.structure.plan import Removed, base_name
from aerogel.structure.shrink import shrink
from aerogel.structure.speedup import measured_speedup, meet_speedup
from aerogel.structure.sublayers import SubLayer, sublayers
from aerogel.structure.uniform import shrink_uniform

GRADIENT_TOKENS = 8192  # of the calibration text, for the Fisher information at the outputs
KL_TOKENS = 2048  # of the calibration text, for the KL divergence of candidates


@dataclass(frozen=True)
class Structure:
    """What was removed from a model.

    Attributes:
        removed: what each sub-layer has kept of the original model, in the model's order.
        speedup: how many times faster than before the model was measured to be, `None` without this target.
        table: the timings that the search used, `None` without this target.
    """

    removed: tuple[Removed, ...]
    speedup: float | None = None
    table: LatencyTable | None = None


def prune_structure(
    model: PreTrainedModel,
    config: StructureConfig,
    calibration: CalibrationSource,
    measure: Measure | None = None,
) -> Structure:
    """Removes attention heads, feed-forward neurons and whole sub-layers in place, by the calibration text.

    1. Each sub-layer: the order of removal, and the error of every number of structures (`Removal`).
    2. All sub-layers: the numbers of least error within the target, refined by the KL divergence to the dense model.
       For a speed-up, costs are timings of this model on this machine's CPU, by `measure` (by default of PyTorch,
       16 x 64 tokens), and the numbers change until the measured speed-up meets the target.
    3. Block by block on the pruned prefix: the remaining weights are updated to compensate, and the model shrinks.

    The same seed and timings give the same bits. Raises `PruningError` for a target out of reach, and `ModelError` and
    `DataError` as `sublayers` and the calibration, before anything is changed.

    >>> import aerogel
    >>> model, tokenizer = aerogel.load("tiny-gpt2")
    >>> text = aerogel.calibration("python-reference", tokenizer, samples=4, length=64)
    >>> structure = prune_structure(model, StructureConfig(sparsity=0.5), text)
    >>> sum(entry.kept for entry in structure.removed) < sum(entry.original for entry in structure.removed)
    True
    """
    expect(config, StructureConfig, PruningError, "a StructureConfig, such as StructureConfig(speedup=2)")
    expect(model, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    source = as_calibration(calibration, model)
    found = sublayers(model)
    measure = measure or TorchMeasure()
    table = latency_table(model, measure) if config.speedup else None
    budget = Budget.of(config, model, found, table)
    batches = source.batches(model)
    outputs = _output_matrices(model, found, batches, config.seed)
    reference = Reference(model, batches, KL_TOKENS)
    counts_within = uniform_counts if config.uniform else uneven_counts
    counts = counts_within(model, outputs, budget, reference, config.seed)
    speedup = None
    if config.speedup and table:

        def measured(numbers: Mapping[str, int]) -> float:
            return measured_speedup(model, numbers, measure, shrink_uniform if config.uniform else shrink)

        numbers, speedup = meet_speedup(config.speedup, measured, counts, budget.limit, table.dense)
    else:
        numbers = counts(budget.limit)
    kept = {output.sublayer.name: output.removal.kept(numbers[output.sublayer.name]) for output in outputs}
    del outputs, counts
    entries = tuple(_entry(model, sublayer, len(kept[sublayer.name])) for sublayer in found)
    if config.uniform:
        kept = _drop_layers(model, kept)
    _compensate(model, kept, batches)
    (shrink_uniform if config.uniform else shrink)(model, kept)
    return Structure(entries, speedup, table)


def _entry(model: PreTrainedModel, sublayer: SubLayer, kept: int) -> Removed:
    kind = "neurons" if sublayer.kind == "feed_forward" else "heads"
    return Removed(base_name(model, sublayer.name), kind, kept, sublayer.original)


def _drop_layers(model: PreTrainedModel, kept: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Drops the blocks that keep nothing, and returns what the others keep under their new names."""
    found = sublayers(model)
    staying = {sublayer.block for sublayer in found if kept[sublayer.name]}
    shrink_uniform(model, {sublayer.name: [] for sublayer in found if sublayer.block not in staying})
    left = [kept[sublayer.name] for sublayer in found if sublayer.block in staying]
    return {sublayer.name: indices for sublayer, indices in zip(sublayers(model), left, strict=True)}


def _output_matrices(
    model: PreTrainedModel, found: Sequence[SubLayer], batches: Sequence[Batch], seed: int
) -> list[OutputMatrix]:
    weights = [sublayer.output for sublayer in found]
    importance = output_fisher(model, weights, batches, GRADIENT_TOKENS, seed)
    outputs: dict[str, OutputMatrix] = {}
    for block in walk(model, weights, batches, True, "comparing heads and neurons"):
        for sublayer in _inside(found, block.weights):
            inputs = Inputs.of(block, sublayer)
            outputs[sublayer.name] = OutputMatrix(sublayer, inputs, importance.pop(sublayer.output.name))
    return [outputs[sublayer.name] for sublayer in found]


def _compensate(model: PreTrainedModel, kept: Mapping[str, Sequence[int]], batches: Sequence[Batch]) -> None:
    """Sets what is removed to zero block by block, and compensates on the outputs of the pruned blocks before."""
    found = sublayers(model)
    for block in walk(model, [sublayer.output for sublayer in found], batches, True, "removing heads and neurons"):
        for sublayer in _inside(found, block.weights):
            keep_compensated(sublayer, kept[sublayer.name], Inputs.of(block, sublayer))


def _inside(found: Sequence[SubLayer], weights: Sequence[object]) -> list[SubLayer]:
    return [sublayer for sublayer in found if sublayer.output in weights]
