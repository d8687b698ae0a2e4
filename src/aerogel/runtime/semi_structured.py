"""2:4 models on NVIDIA GPUs: linear layers that torch's semi-structured kernels run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from aerogel.errors import AerogelWarning, ModelError
from aerogel.models import PackedLayer, PrunableWeight, prunable_weights
from aerogel.runtime.packable import packable_layers

DTYPES = (torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)  # of the first GPUs with sparse tensor cores
MULTIPLES = (32, 64)  # of rows and columns, which both of torch's backends take


class TwoToFourLinear(PackedLayer):
    """A linear layer on a GPU with a 2:4 weight in the form of torch's semi-structured kernels."""

    weight: SparseSemiStructuredTensor
    bias: nn.Parameter | None

    def __init__(self, weight: PrunableWeight) -> None:
        super().__init__()
        self.name, self.dense_class = weight.name, type(weight.module)
        self.out_features, self.in_features = weight.matrix.shape
        self.register_parameter("bias", dict(weight.module.named_parameters(recurse=False)).get("bias"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor", UserWarning)
            self.register_buffer("weight", to_sparse_semi_structured(weight.matrix.contiguous()), persistent=False)
        self.register_state_dict_pre_hook(_refuse_to_save)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    @property
    def matrix(self) -> Tensor:
        return self.weight.to_dense()

    def to_dense(self) -> nn.Module:
        """The layer that it was made of."""
        with torch.device("meta"):
            if self.dense_class is Conv1D:
                dense: nn.Module = Conv1D(self.out_features, self.in_features)
            else:
                dense = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        dense.weight = nn.Parameter(self.matrix.T.contiguous() if self.dense_class is Conv1D else self.matrix)
        dense.register_parameter("bias", self.bias)
        return dense.train(self.training)


def run_two_to_four(model: PreTrainedModel, device: str, move: Callable[[str], object]) -> None:
    """Replaces linear layers whose weights are 2:4, in place, once `move(device)` has moved the model.

    Raises `ModelError`, before anything is changed, without such a GPU, for weights of another dtype than `DTYPES`, and
    if no layer is 2:4. Warns with an `AerogelWarning` of layers that stay dense.
    """
    check_gpu(device)
    names = packable_layers(model)
    weights = [weight for weight in prunable_weights(model) if weight.name in names]
    reasons = {weight.name: reason for weight in weights if (reason := why_dense(weight))}
    first = " ".join(next(iter(reasons.items()), ()))
    if len(reasons) == len(weights):
        raise ModelError(f"{type(model).__name__} has no 2:4 layer, prune it with pattern 2:4 first: {first}")
    move(device)
    for weight in weights:
        if weight.name not in reasons:
            model.set_submodule(weight.name, TwoToFourLinear(weight))
    if reasons:
        warnings.warn(
            f"{len(reasons)} of {len(weights)} matrices stay dense: {first}, and others alike",
            AerogelWarning,
            stacklevel=3,
        )


def restore_two_to_four(model: nn.Module) -> None:
    """Replaces the layers that `run_two_to_four` has made by dense ones on the same device."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, TwoToFourLinear):
            model.set_submodule(name, layer.to_dense())


def check_gpu(device: str) -> None:
    """Raises `ModelError` unless `device` is a GPU of torch's semi-structured kernels."""
    if torch.device(device).type != "cuda":
        raise ModelError(f"compressed models run on device cpu, or cuda if they are 2:4: found {device}")
    if not torch.cuda.is_available():
        raise ModelError(f"device {device} needs a GPU, and torch {torch.__version__} sees none: use device cpu")
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        found, expected = (".".join(map(str, version)) for version in (capability, CAPABILITY))
        raise ModelError(f"2:4 kernels need a GPU of compute capability {expected} or above, {device} has {found}")


def why_dense(weight: PrunableWeight) -> str:
    """Why a layer stays dense; empty if its weight is 2:4 and has a shape that the kernels take.

    Raises `ModelError` for a weight of another dtype than `DTYPES`.
    """
    (rows, columns), dtype = weight.matrix.shape, weight.matrix.dtype
    if dtype not in DTYPES:
        raise ModelError(
            f"layer {weight.name} has weights in {str(dtype).removeprefix('torch.')}, and 2:4 kernels take float16 and "
            "bfloat16: call model.to(torch.bfloat16) first"
        )
    if rows % MULTIPLES[0] or columns % MULTIPLES[1]:
        return f"is {rows}x{columns}, not a multiple of {MULTIPLES[0]}x{MULTIPLES[1]}"
    others = int((weight.zeros.reshape(rows, -1, 4).sum(-1) < 2).sum())
    groups = rows * columns // 4
    return f"has {others:,} of {groups:,} groups of four weights with fewer than two zeros" if others else ""


def _refuse_to_save(layer: TwoToFourLinear, *arguments: Any) -> None:
    raise ModelError(f"layer {layer.name} is compressed for a GPU and can't be saved: call aerogel.decompress first")
