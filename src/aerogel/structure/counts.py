"""The best numbers of structures within a budget: for each sub-layer by itself, or equal in all layers."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import PruningError
from aerogel.pruning.kl import Reference
from aerogel.structure.budget import Budget
from aerogel.structure.families import AttentionRoles, stock_fields
from aerogel.structure.outputs import OutputMatrix, restored
from aerogel.structure.search import Choice, allocate, refine
from aerogel.structure.uniform import shrink_uniform

LEVELS = 48  # numbers of neurons of a sub-layer that are considered, about
ALIGNED = 8  # neurons: kernels are fastest at multiples
DEPTHS = 12  # numbers of layers that are tried, about

Counts = Callable[[float], Mapping[str, int]]
"""Returns the best numbers of structures within a budget, by the name of the sub-layer."""


def uneven_counts(
    model: PreTrainedModel, outputs: Sequence[OutputMatrix], budget: Budget, reference: Reference, seed: int
) -> Counts:
    """Each sub-layer keeps its own number, refined by the KL divergence at the budget's limit."""
    choices = [_choice([output], budget) for output in outputs]
    least = sum(float(choice.costs.min()) for choice in choices)

    def named(levels: Sequence[int]) -> dict[str, int]:
        return {
            output.sublayer.name: choice.counts[level]
            for output, choice, level in zip(outputs, choices, levels, strict=True)
        }

    def kl(levels: list[int]) -> float:
        with restored(outputs):
            _set(outputs, named(levels))
            return reference.kl(model)

    scales = refine(choices, budget.limit, kl, seed)
    return lambda limit: named(allocate(choices, max(limit, least), scales))


def uniform_counts(
    model: PreTrainedModel, outputs: Sequence[OutputMatrix], budget: Budget, reference: Reference, seed: int
) -> Counts:
    """All layers keep the same numbers, or nothing: those of least error are dropped.

    The number of dropped layers is that of the lowest KL divergence at the budget's limit. Raises `PruningError` if
    equal layers can't meet the budget.
    """
    candidates: list[tuple[float, Counts]] = []
    for dropped in progress.track(list(_dropped(outputs)), "searching the number of layers"):
        counts, least = _equal_counts(model, outputs, budget, dropped)
        if least > budget.limit:
            continue
        numbers = counts(budget.limit)
        with restored(outputs):
            _set(outputs, numbers)
            small = copy.deepcopy(model)
        kept = {output.sublayer.name: output.removal.kept(numbers[output.sublayer.name]) for output in outputs}
        with suppress(PruningError):  # some families need as many layers in the encoder as in the decoder
            shrink_uniform(small, kept)
            candidates.append((reference.kl(small), counts))
    if not candidates:
        raise PruningError(
            f"{type(model).__name__} can't meet the target with equal layers: leave out uniform, or choose a lower one"
        )
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _equal_counts(
    model: PreTrainedModel, outputs: Sequence[OutputMatrix], budget: Budget, dropped: set[str]
) -> tuple[Counts, float]:
    """Numbers that are equal where one field of the configuration says them, and 0 in the dropped blocks.

    Also returns the least that they cost.
    """
    tied: dict[str, list[OutputMatrix]] = {}
    least: dict[str, int] = {}
    for output in outputs:
        if output.sublayer.block not in dropped:
            field = _field(model, output)
            name = field or output.sublayer.name
            tied.setdefault(name, []).append(output)
            least[name] = 1 if field else output.sublayer.count
    choices = [_choice(members, budget, least[name]) for name, members in tied.items()]
    lowest = sum(float(choice.costs.min()) for choice in choices)

    def counts(limit: float) -> dict[str, int]:
        levels = allocate(choices, max(limit, lowest))
        numbers = {output.sublayer.name: 0 for output in outputs}
        for members, choice, level in zip(tied.values(), choices, levels, strict=True):
            numbers.update((output.sublayer.name, choice.counts[level]) for output in members)
        return numbers

    return counts, lowest


def _dropped(outputs: Sequence[OutputMatrix]) -> Iterator[set[str]]:
    """Sets of blocks to drop, of increasing size, those of least error first. Each list of blocks keeps one."""
    errors: dict[str, float] = {}
    for output in outputs:
        block = output.sublayer.block
        errors[block] = errors.get(block, 0.0) + float(output.removal.errors[-1])
    stacks = {output.sublayer.block: output.sublayer.stack for output in outputs}
    left = Counter(stacks.values())
    dropped: list[str] = []
    for block in sorted(errors, key=lambda block: errors[block]):
        if left[stacks[block]] > 1:
            left[stacks[block]] -= 1
            dropped.append(block)
    step = max(1, len(dropped) // DEPTHS)
    yield from (set(dropped[:number]) for number in range(0, len(dropped) + 1, step))


def _field(model: PreTrainedModel, output: OutputMatrix) -> str:
    """The field of the configuration that says how many structures a sub-layer has; empty if all have to stay."""
    sublayer = output.sublayer
    fields = stock_fields(model.get_submodule(sublayer.block))
    if not isinstance(sublayer.roles, AttentionRoles):
        return fields.neurons
    has_position_bias = hasattr(model.get_submodule(sublayer.name), "has_relative_attention_bias")
    return "" if has_position_bias else fields.heads or ""


def _choice(members: Sequence[OutputMatrix], budget: Budget, least: int = 0) -> Choice:
    """The numbers that sub-layers may keep, the same in all: every one of heads, of neurons about 48."""
    count = members[0].sublayer.count
    step = max(1, count // LEVELS)
    if step > ALIGNED:
        step -= step % ALIGNED
    least = max(least, *(output.sublayer.at_least for output in members))
    counts = sorted({count, *range(0, count, step)} - {*range(least)})
    removed = torch.tensor([count - number for number in counts])
    errors = torch.stack([output.removal.errors[removed] for output in members]).sum(0)
    costs = [sum(budget.cost(output.sublayer, number) for output in members) for number in counts]
    return Choice(counts, errors, torch.tensor(costs, dtype=torch.float64))


def _set(outputs: Sequence[OutputMatrix], numbers: Mapping[str, int]) -> None:
    for output in outputs:
        output.set(numbers[output.sublayer.name])
