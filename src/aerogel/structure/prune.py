"""Remove structures of a model in place, until it is as fast or as small as a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from aerogel.errors import TRANSFORMERS_MODEL, ModelError, PruningError, expect
from aerogel.models import on_cpu
from aerogel.pruning.batches import Batch
from aerogel.pruning.blocks import walk
from aerogel.pruning.calibration import CalibrationSource, as_calibration
from aerogel.pruning.fisher import output_fisher
from aerogel.pruning.kl import Reference
from aerogel.structure.budget import Budget
from aerogel.structure.config import StructureConfig
from aerogel.structure.latency import LatencyTable, Measure, TorchMeasure, latency_table
from aerogel.structure.outputs import Inputs, OutputMatrix, keep_compensated, restored
from aerogel.structure.plan import Removed, removed
from aerogel.structure.search import Choice, allocate, refine
from aerogel.structure.shrink import shrink
from aerogel.structure.speedup import meet_speedup
from aerogel.structure.sublayers import SubLayer, sublayers

GRADIENT_TOKENS = 8192  # of the calibration text, for the Fisher information at the outputs
KL_TOKENS = 2048  # of the calibration text, for the KL divergence of candidates
LEVELS = 48  # numbers of neurons of a sub-layer that the search considers, about
ALIGNED = 8  # neurons: kernels are fastest at multiples


@dataclass(frozen=True)
class Structure:
    """What was removed from a model.

    Attributes:
        removed: what each sub-layer has kept, in the model's order.
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
       For a speed-up, costs are timings of this model on this machine, by `measure` (by default of PyTorch, 16 x 64
       tokens), and the numbers change until the measured speed-up meets the target.
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
    with on_cpu(model):
        found = sublayers(model)
        measure = measure or TorchMeasure()
        table = latency_table(model, measure) if config.speedup else None
        budget = Budget.of(config, model, found, table)
        batches = source.batches(model)
        outputs = _output_matrices(model, found, batches, config.seed)
        choices = [_choice(output, budget) for output in outputs]
        scales = _refined(model, outputs, choices, budget.limit, batches, config.seed)

        def counts(limit: float) -> dict[str, int]:
            levels = allocate(choices, max(limit, budget.least(found)), scales)
            return {
                sublayer.name: choice.counts[level]
                for sublayer, choice, level in zip(found, choices, levels, strict=True)
            }

        if config.speedup and table:
            numbers, speedup = meet_speedup(model, config.speedup, measure, counts, budget.limit, table.dense)
        else:
            numbers, speedup = counts(budget.limit), None
        kept = {output.sublayer.name: output.removal.kept(numbers[output.sublayer.name]) for output in outputs}
        del outputs
        _compensate(model, found, kept, batches)
        shrink(model, kept)
    return Structure(tuple(removed(model)), speedup, table)


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


def _choice(output: OutputMatrix, budget: Budget) -> Choice:
    """The numbers that a sub-layer may keep: all of heads, and of many neurons about 48."""
    sublayer = output.sublayer
    step = max(1, sublayer.count // LEVELS)
    if step > ALIGNED:
        step -= step % ALIGNED
    counts = sorted({sublayer.count, *range(0, sublayer.count, step)} - {*range(sublayer.at_least)})
    errors = torch.stack([output.removal.errors[sublayer.count - count] for count in counts])
    costs = torch.tensor([budget.cost(sublayer, count) for count in counts], dtype=torch.float64)
    return Choice(counts, errors, costs)


def _refined(
    model: PreTrainedModel,
    outputs: Sequence[OutputMatrix],
    choices: Sequence[Choice],
    limit: float,
    batches: Sequence[Batch],
    seed: int,
) -> list[float]:
    reference = Reference(model, batches, KL_TOKENS)

    def kl(levels: list[int]) -> float:
        with restored(outputs):
            for output, choice, level in zip(outputs, choices, levels, strict=True):
                output.set(choice.counts[level])
            return reference.kl(model)

    return refine(choices, limit, kl, seed)


def _compensate(
    model: PreTrainedModel, found: Sequence[SubLayer], kept: Mapping[str, list[int]], batches: Sequence[Batch]
) -> None:
    weights = [sublayer.output for sublayer in found]
    for block in walk(model, weights, batches, True, "removing heads and neurons"):
        for sublayer in _inside(found, block.weights):
            keep_compensated(sublayer, kept[sublayer.name], Inputs.of(block, sublayer))


def _inside(found: Sequence[SubLayer], weights: Sequence[object]) -> list[SubLayer]:
    return [sublayer for sublayer in found if sublayer.output in weights]
