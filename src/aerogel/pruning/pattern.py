"""Sparsity patterns: unstructured, N:M and block, and exact masks for each."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerogel.errors import PruningError, check_sparsity, expect
from aerogel.pruning.choices import UNSTRUCTURED

NARROW = 16  # scores in a row, as in N:M groups: comparing all pairs is faster than sorting
STRIDE = 61  # of the sample that estimates a quantile; a prime, since matrices may be periodic


@dataclass(frozen=True)
class Pattern:
    """A sparsity pattern, see `Pattern.parse`.

    - `unstructured`: single weights;
    - `2:4`: of every 4 neighbours along a row, 2 are kept (N:M in NVIDIA's order);
    - `block:4x1`: blocks of 4 output rows by 1 input column are kept or dropped whole.

    With `per_row`, weights or blocks compete within their output row (or row of blocks) instead of the whole matrix.
    N:M groups are always within a row.
    """

    kept: int = 0
    group: int = 0
    rows: int = 1
    columns: int = 1
    per_row: bool = False

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Reads `unstructured`, `N:M` or `block:RxC`. Raises `PruningError` for anything else.

        >>> Pattern.parse("block:4x1")
        Pattern(kept=0, group=0, rows=4, columns=1, per_row=False)
        """
        expect(text, str, PruningError, "a pattern: unstructured, N:M or block:RxC")
        if text == UNSTRUCTURED:
            return cls()
        if match := re.fullmatch(r"(\d+):(\d+)", text):
            kept, group = map(int, match.groups())
            if not 0 < kept < group:
                raise PruningError(f"pattern {text!r} keeps N of every M weights: expected 0 < N < M")
            return cls(kept=kept, group=group)
        if match := re.fullmatch(r"block:(\d+)x(\d+)", text):
            rows, columns = map(int, match.groups())
            if rows * columns < 2:
                raise PruningError(f"pattern {text!r}: expected a block of at least two weights")
            return cls(rows=rows, columns=columns)
        raise PruningError(
            f"unknown pattern {text!r}: expected unstructured, N:M (such as 2:4) or block:RxC (such as block:4x1)"
        )

    def __str__(self) -> str:
        if self.group:
            return f"{self.kept}:{self.group}"
        return f"block:{self.rows}x{self.columns}" if self.rows * self.columns > 1 else UNSTRUCTURED

    @property
    def fixed_sparsity(self) -> float | None:
        """The only sparsity of an N:M pattern; `None` for the other patterns."""
        return 1 - self.kept / self.group if self.group else None

    def allows(self, sparsity: float) -> bool:
        """Whether the pattern can have this sparsity; for N:M it may be rounded to six digits."""
        return self.fixed_sparsity is None or abs(sparsity - self.fixed_sparsity) <= 1e-6

    def settle(self, sparsity: float | None) -> float:
        """The exact sparsity to prune to: that of an N:M pattern, else `sparsity`.

        Raises `PruningError` for a sparsity outside [0, 1), one that contradicts an N:M pattern, and `None` with any
        other pattern.
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
        """Raises `PruningError` as `settle`, and for a (d_out, d_in) shape that the pattern does not divide."""
        rows, columns = shape
        self.settle(sparsity)
        if self.group and columns % self.group:
            raise PruningError(f"pattern {self} does not divide the {columns} inputs of a {rows}x{columns} matrix")
        if rows % self.rows or columns % self.columns:
            raise PruningError(f"pattern {self} does not divide a {rows}x{columns} matrix")

    def mask(self, scores: Tensor, sparsity: float) -> Tensor:
        """Marks the weights with the highest scores (d_out, d_in): True where kept, in the same shape.

        Of n units that compete, exactly `round(sparsity * n)` are dropped, with the sparsity in [0, 1). Of equal scores
        the first are kept, row by row. Subnormal scores count as 0. Raises `PruningError` as `check`, and for NaN.

        >>> Pattern.parse("2:4").mask(torch.tensor([[1.0, 4.0, 3.0, 2.0]]), 0.5)
        tensor([[False,  True,  True, False]])
        """
        self.check(scores.shape, sparsity)
        units = self.units(scores)
        if units.amin().isnan():
            raise PruningError("its scores contain NaN")
        if self.group:
            return topk_mask(scores.reshape(-1, self.group), self.kept).view(scores.shape)
        competing = units if self.per_row else units.reshape(1, -1)
        size = competing.shape[-1]
        return self.spread(topk_mask(competing, size - round(sparsity * size)).view(units.shape))

    def approach(self, scores: Tensor, sparsity: float) -> Tensor:
        """A mask like `mask`, but with any sparsity up to that of an N:M pattern.

        Of the weights that the N:M pattern drops, those with the lowest scores in the matrix are dropped first.
        """
        if self.fixed_sparsity is None:
            return self.mask(scores, sparsity)
        ranks = scores.masked_fill(self.mask(scores, self.fixed_sparsity), torch.inf).view(-1)
        return topk_mask(ranks, len(ranks) - round(sparsity * len(ranks))).view_as(scores)

    def units(self, scores: Tensor) -> Tensor:
        """The scores of what is kept or dropped as one: single weights, or (d_out/R, d_in/C) sums over blocks."""
        if self.rows * self.columns == 1:
            return scores
        rows, columns = scores.shape
        return scores.reshape(rows // self.rows, self.rows, columns // self.columns, self.columns).sum((1, 3))

    def spread(self, mask: Tensor) -> Tensor:
        """The inverse of `units` for a mask: repeats the value of each block for each of its weights."""
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
    threshold = _kth_lowest(scores, dropped)
    above = scores > threshold
    room = kept - above.sum(-1, keepdim=True, dtype=torch.int32)  # by default the mask would be copied as int64
    if not room.any():
        return above
    ties = scores == threshold
    return above | (ties & (ties.cumsum(-1, dtype=torch.int32) <= room))


def flushed(scores: Tensor) -> Tensor:
    """The scores, with those up to the smallest normal number set to zero.

    With `torch.set_flush_denormal` some threads flush subnormal numbers and others don't, so two passes over the same
    scores could rank them differently.
    """
    if not scores.is_floating_point():
        return scores
    return torch.nn.functional.hardshrink(scores, torch.finfo(scores.dtype).tiny)


def _outranked(scores: Tensor) -> Tensor:
    """The number of scores in its row that rank above each score, by comparing all pairs."""
    columns = scores.unbind(-1)
    counts = [torch.zeros_like(column, dtype=torch.uint8) for column in columns]
    for later in range(len(columns)):
        for earlier in range(later):
            before = columns[earlier] >= columns[later]
            counts[later] += before
            counts[earlier] += ~before
    return torch.stack(counts, -1)


def _kth_lowest(scores: Tensor, k: int) -> Tensor:
    """The k-th lowest value along the last dimension, counted from 1, with that dimension kept at size 1."""
    one_row = scores.numel() == scores.shape[-1]
    if one_row and scores.device.type == "cpu" and scores.dtype == torch.float32:  # 25 times as fast as kthvalue
        return torch.full_like(scores[..., :1], _partitioned(scores.detach().flatten().numpy(), k - 1))
    return scores.kthvalue(k, dim=-1, keepdim=True).values


def _partitioned(values: NDArray[np.float32], index: int) -> float:
    """The value at this index, counted from 0, of the sorted values.

    A sorted sample bounds it with high probability, and only the values within the bounds are partitioned.
    """
    sample = np.sort(values[::STRIDE])
    expected, margin = index // STRIDE, math.isqrt(4 * len(sample))  # at least four standard deviations
    low, high = sample[max(0, expected - margin)], sample[min(len(sample) - 1, expected + margin)]
    near = values[(values >= low) & (values <= high)]
    rank = index - int(np.count_nonzero(values < low))
    if not 0 <= rank < len(near):
        near, rank = values, index
    return float(np.partition(near, rank)[rank])
