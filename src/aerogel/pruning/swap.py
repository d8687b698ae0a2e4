"""Swap refinement of a mask: a kept weight against a dropped one of its row, as long as the error falls."""

from __future__ import annotations

import torch
from torch import Tensor

from aerogel.pruning.least_squares import damped, refit
from aerogel.pruning.pattern import Pattern

ROUNDS = 40  # swaps at most of each output row, or row of blocks
DAMPING = 0.01
REFITS = 8


def swap(target: Tensor, weight: Tensor, mask: Tensor, hessian: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Improves a mask of any method under ‖X (target − weight)ᵀ‖², and the weights with it where the method moved them.

    With e the error of a row and g = eH, to drop p, with weight w, and restore q, with weight v, changes the row's
    error by 2 w_p g_p + w_p² H_pp − 2 v_q (g_q + w_p H_pq) + v_q² H_qq. Weights that were left as they are come back
    as they were; where the method moved them, q comes back with its best value and the rows are solved again.

    Args:
        target: (d_out, d_in), the dense weights; weight: those that the method gave; mask: True where kept.
        hessian: (d_in, d_in), XᵀX.
        pattern: swaps stay within an N:M group, else within a row (of blocks), so that all counts stay exact.

    Returns:
        The new mask and the weights on it.
    """
    hessian = damped(hessian, DAMPING)
    weight = weight * mask
    moved = not torch.equal(weight, target * mask)
    kept = pattern.units(mask.float()) > 0
    gradient = (target - weight) @ hessian
    near = _near(hessian, pattern)
    tried = torch.zeros_like(kept)
    for _ in range(ROUNDS):
        drop = pattern.units(2 * weight * gradient + weight * _local(weight, hessian, near))
        back = gradient / hessian.diagonal() if moved else target
        restore = pattern.units(back * _local(back, hessian, near) - 2 * back * gradient)
        drop = drop.masked_fill(~kept | tried, torch.inf)
        restore = restore.masked_fill(kept, torch.inf)
        out = (drop + _least(restore, pattern)).argmin(1)
        pulled = gradient + _rows(weight, hessian, out, pattern)
        back = pulled / hessian.diagonal() if moved else target
        change = pattern.units(back * _local(back, hessian, near) - 2 * back * pulled)
        change = change.masked_fill(kept | ~_rivals(out, kept.shape[1], pattern), torch.inf)
        change = change + drop.gather(1, out[:, None])
        best, into = change.min(1)
        better = best < -1e-6 * restore.masked_fill(kept, 0).abs().amax(1)
        tried[torch.arange(len(out)), out] = True
        if not better.any():
            break
        tried[better] = False
        rows = torch.arange(len(out))[better]
        kept[rows, out[better]] = False
        kept[rows, into[better]] = True
        old = pattern.spread(_one(out, better, kept.shape))
        new = pattern.spread(_one(into, better, kept.shape))
        difference = torch.where(new, back, 0) - torch.where(old, weight, 0)
        weight = weight + difference
        gradient = torch.where(
            better.repeat_interleave(pattern.rows)[:, None], pulled - _rows(weight, hessian, into, pattern), gradient
        )
    mask = pattern.spread(kept)
    return mask, refit(target, weight, mask, hessian, REFITS) if moved else weight


def _near(hessian: Tensor, pattern: Pattern) -> Tensor | None:
    """H within the columns of each block; `None` where blocks are one column wide, and it is the diagonal."""
    if pattern.columns == 1:
        return None
    place = torch.arange(len(hessian)) // pattern.columns
    return hessian * (place == place[:, None])


def _local(weight: Tensor, hessian: Tensor, near: Tensor | None) -> Tensor:
    return weight * hessian.diagonal() if near is None else weight @ near


def _least(restore: Tensor, pattern: Pattern) -> Tensor:
    """The best that can come back, for each place that may go."""
    if not pattern.group:
        return restore.amin(1, keepdim=True)
    groups = restore.view(len(restore), -1, pattern.group)
    return groups.amin(2, keepdim=True).expand_as(groups).reshape(restore.shape)


def _rivals(out: Tensor, width: int, pattern: Pattern) -> Tensor:
    """The places that may come back for `out`."""
    if not pattern.group:
        return torch.ones(len(out), width, dtype=torch.bool)
    return torch.arange(width) // pattern.group == out[:, None] // pattern.group


def _rows(weight: Tensor, hessian: Tensor, chosen: Tensor, pattern: Pattern) -> Tensor:
    """What one chosen unit of each row adds to the gradient: w_p H_p·, (d_out, d_in)."""
    first = (chosen * pattern.columns).repeat_interleave(pattern.rows)
    added = torch.zeros_like(weight)
    for offset in range(pattern.columns):
        place = first + offset
        added += weight.gather(1, place[:, None]) * hessian[place]
    return added


def _one(chosen: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """Marks the chosen unit of each of `rows`."""
    marked = torch.zeros(shape, dtype=torch.bool)
    marked[torch.arange(len(chosen))[rows], chosen[rows]] = True
    return marked
