"""Refine a mask by swapping a kept weight with a dropped one of its row while the error falls."""

import torch
from torch import Tensor

from aerogel.pruning.least_squares import damped, refit
from aerogel.pruning.pattern import Pattern

ROUNDS = 40  # the largest number of swaps in each output row, or row of blocks
DAMPING = 0.01
REFITS = 8


def swap(target: Tensor, weight: Tensor, mask: Tensor, hessian: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Lowers ‖X (target − weight)ᵀ‖² by swaps, and updates the weights if the method did.

    With e the error of a row and g = eH, dropping p, of weight w, and restoring q, of weight v, changes the error of
    the row by 2 w_p g_p + w_p² H_pp − 2 v_q (g_q + w_p H_pq) + v_q² H_qq. If the method kept the dense values, so does
    a restored weight. If it updated them, q is restored with its best value and the rows are refit at the end. Swaps
    stay within an N:M group, or else within a row (of blocks), so that counts stay exact.

    `target` are the dense weights, `weight` those that the method returned, and `mask` is True where kept, all
    (d_out, d_in); `hessian` is XᵀX (d_in, d_in). Returns the new mask and the weights on it.
    """
    hessian = damped(hessian, DAMPING)
    weight = weight * mask
    updated = not torch.equal(weight, target * mask)
    kept = pattern.units(mask.float()) > 0
    rows = torch.arange(len(kept), device=kept.device)
    gradient = (target - weight) @ hessian
    block_hessian = _block_hessian(hessian, pattern)
    failed = torch.zeros_like(kept)  # to drop since the last swap of the row
    for _ in range(ROUNDS):
        drop = pattern.units(2 * weight * gradient + weight * _within_blocks(weight, hessian, block_hessian))
        restored = gradient / hessian.diagonal() if updated else target
        restore = pattern.units(restored * _within_blocks(restored, hessian, block_hessian) - 2 * restored * gradient)
        drop = drop.masked_fill(~kept | failed, torch.inf)
        restore = restore.masked_fill(kept, torch.inf)
        out = (drop + _lowest_partner(restore, pattern)).argmin(1)
        after_drop = gradient + _times_hessian(weight, hessian, out, pattern)
        restored = after_drop / hessian.diagonal() if updated else target
        change = pattern.units(restored * _within_blocks(restored, hessian, block_hessian) - 2 * restored * after_drop)
        change = change.masked_fill(kept | ~_partners(out, kept.shape[1], pattern), torch.inf)
        change = change + drop.gather(1, out[:, None])
        lowest, into = change.min(1)
        better = lowest < -1e-6 * restore.masked_fill(kept, 0).abs().amax(1)
        failed[rows, out] = True
        if not better.any():
            break
        failed[better] = False
        swapped = rows[better]
        kept[swapped, out[better]] = False
        kept[swapped, into[better]] = True
        old = pattern.spread(_marked(out, swapped, kept.shape))
        new = pattern.spread(_marked(into, swapped, kept.shape))
        weight = weight + (torch.where(new, restored, 0) - torch.where(old, weight, 0))
        after_swap = after_drop - _times_hessian(weight, hessian, into, pattern)
        gradient = torch.where(better.repeat_interleave(pattern.rows)[:, None], after_swap, gradient)
    mask = pattern.spread(kept)
    return mask, refit(target, weight, mask, hessian, REFITS) if updated else weight


def _block_hessian(hessian: Tensor, pattern: Pattern) -> Tensor | None:
    """H within the columns of each block; `None` for blocks one column wide, where it is the diagonal."""
    if pattern.columns == 1:
        return None
    block = torch.arange(len(hessian), device=hessian.device) // pattern.columns
    return hessian * (block == block[:, None])


def _within_blocks(weight: Tensor, hessian: Tensor, block_hessian: Tensor | None) -> Tensor:
    """The weights times H within the columns of each block, (d_out, d_in)."""
    return weight * hessian.diagonal() if block_hessian is None else weight @ block_hessian


def _lowest_partner(restore: Tensor, pattern: Pattern) -> Tensor:
    """For each unit that may be dropped, the lowest change of the error by a unit that may be restored for it."""
    if not pattern.group:
        return restore.amin(1, keepdim=True)
    groups = restore.view(len(restore), -1, pattern.group)
    return groups.amin(2, keepdim=True).expand_as(groups).reshape(restore.shape)


def _partners(out: Tensor, width: int, pattern: Pattern) -> Tensor:
    """Marks the units of each row that may be restored when unit `out` is dropped."""
    if not pattern.group:
        return torch.ones(len(out), width, dtype=torch.bool, device=out.device)
    return torch.arange(width, device=out.device) // pattern.group == out[:, None] // pattern.group


def _times_hessian(weight: Tensor, hessian: Tensor, units: Tensor, pattern: Pattern) -> Tensor:
    """The weights of one unit of each row times their rows of H: w_p H_p·, (d_out, d_in)."""
    first = (units * pattern.columns).repeat_interleave(pattern.rows)
    product = torch.zeros_like(weight)
    for offset in range(pattern.columns):
        column = first + offset
        product += weight.gather(1, column[:, None]) * hessian[column]
    return product


def _marked(units: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """Marks one unit of each of `rows`."""
    marked = torch.zeros(shape, dtype=torch.bool, device=units.device)
    marked[rows, units[rows]] = True
    return marked
