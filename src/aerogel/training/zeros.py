"""Which zeros of a model were put there by pruning."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import Tensor

from aerogel.errors import AerogelWarning
from aerogel.models import PrunableWeight

ACCIDENTAL = 1e-3  # share of zeros that a matrix which was never pruned may have


def zero_masks(weights: Iterable[PrunableWeight]) -> dict[str, Tensor]:
    """The zeros of the matrices that were pruned, by weight name: (d_out, d_in), True at a zero.

    A checkpoint does not say which of its zeros were pruned, so the matrices are told apart by where their zeros are:

    - A matrix of zeros alone starts at zero and has yet to learn: a gate, a new head, the last layer of a new block.
      Pruning leaves something of every matrix, since without any weight it cuts the network.
    - The same holds outside the blocks for whole rows of zeros, where fewer than one in a thousand of the other weights
      are zero: the rows of new tokens and classes. Inside the blocks such rows are pruned neurons.
    - All other zeros count as pruned, also the few that a dense model may have by chance.
    """
    masks, blank = {}, []
    for weight in weights:
        zeros = weight.zeros
        if zeros.all():
            blank.append(weight.name)
        elif zeros.any() and (weight.target == "blocks" or not _only_in_rows(zeros)):
            masks[weight.name] = zeros
    if blank:
        warnings.warn(
            f"{len(blank)} matrices hold zeros alone, the first is {blank[0]}: they are left to learn, as gates and "
            "new heads start so",
            AerogelWarning,
            stacklevel=2,
        )
    return masks


def _only_in_rows(zeros: Tensor) -> bool:
    others = zeros[~zeros.all(1)]
    return bool(others.float().mean() < ACCIDENTAL)
