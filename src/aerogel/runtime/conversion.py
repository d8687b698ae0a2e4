"""Swapping a model's pruned layers for sparse ones, and back."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from aerogel.models import prunable_weights
from aerogel.runtime.fused import fuse, unfuse
from aerogel.runtime.layers import SparseLinear

# Below this share of zeros the dense product is as fast: for each weight that is left, the sparse kernel does about
# three quarters of its work in the same time.
LEAST_SPARSITY = 0.4


def compress(model: PreTrainedModel) -> PreTrainedModel:
    """Packs every prunable layer with enough zeros, in place, and returns the model, ready to run sparse.

    Layers under `LEAST_SPARSITY` stay dense, since they would gain nothing. Results agree with the dense model's to
    float32 rounding. Weights must be on the CPU. A compressed model can't be trained: `decompress` it first.
    """
    for weight in prunable_weights(model):
        if 1 - torch.count_nonzero(weight.parameter).item() / weight.parameter.numel() >= LEAST_SPARSITY:
            model.set_submodule(weight.name, SparseLinear.of(weight.module))
    fuse(model)
    return model


def decompress(model: PreTrainedModel) -> PreTrainedModel:
    """Restores the dense layers of a compressed model, in place and bit for bit, and returns it."""
    for name, module in sparse_layers(model):
        model.set_submodule(name, module.to_dense())
    unfuse(model)
    return model


def sparse_layers(model: nn.Module) -> list[tuple[str, SparseLinear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, SparseLinear)]
