"""Where zeros may stand: anywhere, N kept of every M in a row, or in whole blocks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerogel.errors import PruningError, check_sparsity, expect

NARROW = 16  # places to choose from, as in N:M groups
SAMPLED = 61  # one value in so many; a prime, since matrices repeat themselves in even steps


@dataclass(frozen=True)
class Pattern:
    """A sparsity pattern; `Pattern.parse` reads the three forms that people write.

    - `unstructured`: single weights;
    - `2:4`: in every group of 4 neighbours along a row, 2 are kept (NVIDIA's sense of N:M);
    - `block:4x1`: blocks of 4 output rows by 1 input column are kept or dropped whole.

    `per_row` makes unstructured weights, or blocks, compete within their own output row (or row of
    blocks) rather than within the whole matrix; N:M groups are never wider than a row.
    """

    kept: int = 0
    group: int = 0
    rows: int = 1
    columns: int = 1
    per_row: bool = False

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Reads `unstructured`, `N:M` or `block:RxC`. Raises `PruningError` for anything else."""
        expect(text, str, PruningError, "a pattern: unstructured, N:M or block:RxC")
        if text == "unstructured":
            return cls()
        if match := re.fullmatch(r"(\d+):(\d+)", text):
            kept, group = map(int, match.groups())
            if not 0 < kept < group:
                raise PruningError(f"pattern {text!r}: N:M keeps N of every M weights, so 0 < N < M")
            return cls(kept=kept, group=group)
        if match := re.fullmatch(r"block:(\d+)x(\d+)", text):
            rows, columns = map(int, match.groups())
            if rows * columns < 2:
                raise PruningError(f"pattern {text!r}: a block holds at least two weights")
            return cls(rows=rows, columns=columns)
        raise PruningError(
            f"pattern {text!r} is none of unstructured, N:M (such as 2:4) and block:RxC (such as block:4x1)"
        )

    def __str__(self) -> str:
        if self.group:
            return f"{self.kept}:{self.group}"
        return f"block:{self.rows}x{self.columns}" if self.rows * self.columns > 1 else "unstructured"

    @property
    def fixed_sparsity(self) -> float | None:
        """The one sparsity that an N:M pattern allows; `None` where any will do."""
        return 1 - self.kept / self.group if self.group else None

    def allows(self, sparsity: float) -> bool:
        """Whether the pattern leaves the sparsity free, or fixes it at this one, which may be rounded."""
        return self.fixed_sparsity is None or abs(sparsity - self.fixed_sparsity) <= 1e-6

    def settle(self, sparsity: float | None) -> float:
        """The sparsity to prune to: the pattern's own where it fixes one, since what was asked for may be rounded.

        Raises `PruningError` for one outside [0, 1) or against the pattern, and for none where the pattern needs one.
        """
        fixed = self.fixed_sparsity
        if sparsity is None:
            if fixed is None:
                raise PruningError(f"pattern {self} needs a sparsity, in [0, 1)")
            return fixed
        check_sparsity(sparsity, PruningError)
        if not self.allows(sparsity):
            raise PruningError(f"sparsity {sparsity:g} contradicts pattern {self}, which fixes it at {fixed:g}")
        return sparsity if fixed is None else fixed

    def within_rows(self) -> Pattern:
        return replace(self, per_row=True)

    def check(self, shape: torch.Size, sparsity: float) -> None:
        """Raises `PruningError` for a sparsity outside [0, 1) or against the pattern, or a shape it can't divide."""
        rows, columns = shape
        self.settle(sparsity)
        if self.group and columns % self.group:
            raise PruningError(f"pattern {self} does not divide the {columns} inputs of a {rows}x{columns} matrix")
        if rows % self.rows or columns % self.columns:
            raise PruningError(f"pattern {self} does not divide a {rows}x{columns} matrix")

    def mask(self, scores: Tensor, sparsity: float) -> Tensor:
        """Marks the weights to keep: those of the highest scores, by rank, so that counts are exact.

        Args:
            scores: (d_out, d_in), one score a weight.
            sparsity: the share of zeros, in [0, 1). Of n units that compete, `round(sparsity * n)` are dropped.

        Returns:
            A bool tensor of the shape of `scores`, True where a weight is kept. Of equal scores the first are
            kept, row by row. Scores too small for a normal number count as 0.

        Raises:
            PruningError: as `check`, and for scores that are not numbers.
        """
        self.check(scores.shape, sparsity)
        units = self.units(scores)
        if units.amin().isnan():
            raise PruningError("scores hold values that are not numbers (NaN)")
        if self.group:
            return topk_mask(scores.reshape(-1, self.group), self.kept).view(scores.shape)
        competing = units if self.per_row else units.reshape(1, -1)
        size = competing.shape[-1]
        return self.spread(topk_mask(competing, size - round(sparsity * size)).view(units.shape))

    def approach(self, scores: Tensor, sparsity: float) -> Tensor:
        """A mask on the way to the pattern, with any share of zeros up to the pattern's own: see `mask`.

        Of what an N:M pattern would drop, the lowest scores go first, wherever they are.
        """
        if self.fixed_sparsity is None:
            return self.mask(scores, sparsity)
        ranks = scores.masked_fill(self.mask(scores, self.fixed_sparsity), torch.inf).view(-1)
        return topk_mask(ranks, len(ranks) - round(sparsity * len(ranks))).view_as(scores)

    def units(self, scores: Tensor) -> Tensor:
        """What is kept or dropped as one: the scores themselves, or (d_out/R, d_in/C) sums over blocks."""
        if self.rows * self.columns == 1:
            return scores
        rows, columns = scores.shape
        return scores.reshape(rows // self.rows, self.rows, columns // self.columns, self.columns).sum((1, 3))

    def spread(self, mask: Tensor) -> Tensor:
        """The inverse of `units` for a mask: each block's value for each of its weights."""
        if self.rows * self.columns == 1:
            return mask
        return mask.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)


def topk_mask(scores: Tensor, kept: int) -> Tensor:
    """Marks exactly `kept` of the highest scores along the last dimension; ties go to the earliest."""
    scores = flushed(scores)
    dropped = scores.shape[-1] - kept
    if dropped == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if scores.shape[-1] <= NARROW:
        return _outranked(scores) < kept
    threshold = _smallest(scores, dropped)
    above = scores > threshold
    room = kept - above.sum(-1, keepdim=True)
    if not room.any():
        return above
    ties = scores == threshold
    return above | (ties & (ties.cumsum(-1, dtype=torch.int32) <= room))


def flushed(scores: Tensor) -> Tensor:
    """The scores with those too small for a normal number at zero.

    With `torch.set_flush_denormal` some threads take them for zeros and others don't, so that the passes of a ranking
    would not agree.
    """
    if not scores.is_floating_point():
        return scores
    return torch.nn.functional.hardshrink(scores, torch.finfo(scores.dtype).tiny)


def _outranked(scores: Tensor) -> Tensor:
    """By how many of its row each score is outranked, each pair compared: faster than sorting where rows are short."""
    columns = scores.unbind(-1)
    counts = [torch.zeros_like(column, dtype=torch.uint8) for column in columns]
    for later in range(len(columns)):
        for earlier in range(later):
            before = columns[earlier] >= columns[later]
            counts[later] += before
            counts[earlier] += ~before
    return torch.stack(counts, -1)


def _smallest(scores: Tensor, place: int) -> Tensor:
    """The value at that place, counted from 1, of the sorted last dimension, which is kept with size 1."""
    one_row = scores.numel() == scores.shape[-1]
    if one_row and scores.device.type == "cpu" and scores.dtype == torch.float32:  # 25 times as fast as kthvalue
        return torch.full_like(scores[..., :1], _at(scores.detach().flatten().numpy(), place - 1))
    return scores.kthvalue(place, dim=-1, keepdim=True).values


def _at(values: NDArray[np.float32], place: int) -> float:
    """The value at that place, counted from 0, of many values if they were sorted.

    A sorted sample says between which two it lies, but for chance, and only what lies there is ranked.
    """
    sample = np.sort(values[::SAMPLED])
    expected, margin = place // SAMPLED, math.isqrt(4 * len(sample))  # at least four standard deviations
    low, high = sample[max(0, expected - margin)], sample[min(len(sample) - 1, expected + margin)]
    near = values[(values >= low) & (values <= high)]
    rank = place - int(np.count_nonzero(values < low))
    if not 0 <= rank < len(near):
        near, rank = values, place
    return float(np.partition(near, rank)[rank])
