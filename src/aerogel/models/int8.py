"""8-bit integers in place of weights and activations: the numbers that int8 layers compute with.

Weights are symmetric, with a scale for each output; activations are asymmetric, with a scale for each token and each
768 of its inputs, quantized when the model runs.
"""

import torch
from torch import Tensor
from torch.nn import functional

from aerogel.errors import ModelError

GROUP = 768  # inputs of a token that share a scale; `PANEL` in runtime/cells.py, which this package can't import
LARGEST = 127  # integers of weights; -128 is not used
STEPS = 254  # between the smallest and the largest activation: one fewer than a byte has, so that rounding stays inside
TINY = 1e-37  # the reciprocal of a scale below this may be infinite, and its multiples may be denormal
ROUNDING = 1.5 * 2**23  # floats near this are integers


def quantize_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds weights (d_out, d_in) to integers: returns q, int8 (d_out, d_in), and scales s, float32 (d_out,).

    s is the largest absolute value of the row over 127, or 0 if that is below 1e-37, and q = w / s is rounded to the
    nearest integer, half to even. A row of values s q with any s and a largest |q| of 127 gives the same q again, but
    not if it was rounded to bfloat16. Raises `ModelError` for weights that are infinite or NaN.

    >>> quantize_rows(torch.tensor([[0.5, -127.0, 3.4], [0.0, 0.0, 0.0]]))
    (tensor([[   0, -127,    3],
            [   0,    0,    0]], dtype=torch.int8), tensor([1., 0.]))
    """
    weights = matrix.detach().float()
    largest = weights.abs().amax(dim=1)
    if not largest.isfinite().all():
        row = int((~largest.isfinite()).nonzero()[0])
        raise ModelError(f"row {row} has weights that are infinite or NaN, which can't be rounded to int8")
    scales = largest / LARGEST
    scales = scales.masked_fill_(scales < TINY, 0)
    divisors = scales.masked_fill(scales == 0, torch.inf)
    return (weights / divisors[:, None]).round_().to(torch.int8), scales


def dequantize(integers: Tensor, scales: Tensor) -> Tensor:
    """The weights s q, float32 (d_out, d_in)."""
    return integers.float() * scales[:, None]


def round_to_grid(matrix: Tensor) -> Tensor:
    """The weights s q of `quantize_rows`, in the dtype of `matrix`. The gradient is passed straight through.

    Zeros stay zeros. Each weight changes by at most s / 2. Raises as `quantize_rows` does.

    >>> round_to_grid(torch.tensor([[0.5, -127.0, 3.4]]))
    tensor([[   0., -127.,    3.]])
    """
    return _straight_through(matrix, dequantize(*quantize_rows(matrix)))


def token_integers(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds activations (..., features) to integers, for each token and each group of 768 features.

    The last group is filled up with zeros, unless it is the only one. With lo = min(0, min x), hi = max(0, max x) and
    s = (hi - lo) / 254, the zero point is z = round(-lo (1/s)), and q = round(x (1/s) + z) is in [0, 255], both to the
    nearest integer, half to even; if s is below 1e-37, q = z = 0. Returns q (..., groups, features of a group),
    z (..., groups, 1) and s (..., groups, 1), as float32: the numbers that the kernels compute, bit for bit. The s of a
    group with an infinity or NaN is not finite.
    """
    width = min(GROUP, x.shape[-1])
    groups = functional.pad(x.float(), (0, -x.shape[-1] % width)).unflatten(-1, (-1, width))
    lowest, highest = groups.amin(-1, keepdim=True).clamp_(max=0), groups.amax(-1, keepdim=True).clamp_(min=0)
    scale = highest * (1 / STEPS) - lowest * (1 / STEPS)  # which can't overflow
    inverse = torch.where(scale < TINY, 0, 1 / scale)
    zero = (-lowest * inverse).round_()
    # the sum is rounded once, to an integer
    return (groups * inverse).add_(zero + ROUNDING).sub_(ROUNDING), zero, scale


def quantize_tokens(x: Tensor) -> Tensor:
    """The activations s (q - z) of `token_integers`, in the shape and dtype of x (..., features).

    The gradient is passed straight through. In a group with an infinity or NaN, all values are NaN.

    >>> quantize_tokens(torch.tensor([[-1.0, 0.0, 0.249, 253.0], [0.0, 0.0, 0.0, 0.0]]))
    tensor([[ -1.,   0.,   0., 253.],
            [  0.,   0.,   0.,   0.]])
    """
    integers, zero, scale = token_integers(x.detach())
    rounded = (integers - zero) * scale
    return _straight_through(x, rounded.flatten(-2)[..., : x.shape[-1]])


def _straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` in the dtype of x, with the gradient of x."""
    return rounded.to(x.dtype) + (x - x.detach()) if x.requires_grad else rounded.to(x.dtype)
