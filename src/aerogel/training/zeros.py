"""Which zeros of a model come from pruning."""

import warnings
from collections.abc import Iterable

from torch import Tensor

from aerogel.errors import AerogelWarning
from aerogel.models import PrunableWeight
from aerogel.tables import counted

ACCIDENTAL = 1e-3  # the share of zeros that a matrix may have without having been pruned


def zero_masks(weights: Iterable[PrunableWeight]) -> dict[str, Tensor]:
    """The zeros of the matrices that were pruned, by weight name: (d_out, d_in), True at a zero.

    A checkpoint does not say which of its zeros were pruned; it is inferred from where they are:

    - A matrix of zeros alone was initialised with zeros and is still to be trained: a gate, a new head, the last layer
      of a new block. Pruning keeps some weights of every matrix, since an empty one cuts the network.
    - Outside the blocks, so are whole rows of zeros where fewer than one in a thousand of the other weights are zero:
      rows of new tokens and classes. Inside the blocks such rows are pruned neurons.
    - All other zeros count as pruned, including the few that a dense model may have by chance.
    """
    masks, empty = {}, []
    for weight in weights:
        zeros = weight.zeros
        if zeros.all():
            empty.append(weight.name)
        elif zeros.any() and (weight.target == "blocks" or not _only_in_rows(zeros)):
            masks[weight.name] = zeros
    if empty:
        warnings.warn(
            f"{counted(len(empty), 'matrix', 'matrices')} of zeros alone, the first {empty[0]}, will be trained, since "
            "gates and new heads start at zero",
            AerogelWarning,
            stacklevel=2,
        )
    return masks


def _only_in_rows(zeros: Tensor) -> bool:
    others = zeros[~zeros.all(1)]
    return bool(others.float().mean() < ACCIDENTAL)
