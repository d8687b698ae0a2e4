"""Swapping a model's pruned layers for sparse ones, and back."""

from __future__ import annotations

import warnings
from typing import Literal

from transformers import PreTrainedModel

from aerogel.errors import TRANSFORMERS_MODEL, AerogelWarning, ModelError, expect
from aerogel.models import prunable_weights
from aerogel.runtime.fused import fuse, unfuse
from aerogel.runtime.layers import SparseLinear, put_layer, sparse_layers
from aerogel.runtime.packable import packable_layers
from aerogel.runtime.packed import check_packable
from aerogel.runtime.quantizer import mark, unmark

# Below this share of zeros the dense product is as fast: for each weight that is left, the sparse kernel does about
# three quarters of its work in the same time.
LEAST_SPARSITY = 0.4
WITHOUT_ZEROS = 0.01  # a matrix with fewer was not pruned, or has lost its zeros


def compress(model: PreTrainedModel, values: Literal["bfloat16"] | None = None) -> PreTrainedModel:
    """Packs every prunable layer with enough zeros, in place, and returns the model, ready to run sparse.

    Layers under `LEAST_SPARSITY` stay dense, since they would gain nothing. Results agree with the dense model's to
    float32 rounding. Weights must be on the CPU. A compressed model can't be trained: `decompress` it first.
    `model.save_pretrained` writes it packed. With `values` "bfloat16" the weights are rounded to that, also of layers
    that were packed before. Raises `ModelError` for other `values`, for weights that can't be packed, and for a model
    without prunable weights, before anything is changed. Warns with an `AerogelWarning` of matrices that have no zeros
    where others have, and of blocks that can't be fused with these versions of transformers and torch.
    """
    expect(model, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    before = [layer for _, layer in sparse_layers(model)]
    packable = packable_layers(model)
    weights = [weight for weight in prunable_weights(model, to_read=True) if weight.name in packable]
    for weight in weights:
        check_packable(weight.matrix)
    mark(model, values)
    for layer in before if values else ():
        layer.round_values()
    without_zeros = []
    for weight in weights:
        layer = SparseLinear.of(weight.module, values)  # which counts the zeros
        if 1 - layer.packed.density >= LEAST_SPARSITY:
            put_layer(model, weight.name, layer)
        elif 1 - layer.packed.density < WITHOUT_ZEROS:
            without_zeros.append(weight.name)
    packed = sparse_layers(model)
    if not packed:
        unmark(model)
    elif without_zeros:
        warnings.warn(
            f"{len(without_zeros)} matrices without zeros stay dense beside {len(packed)} packed ones, the first is "
            f"{without_zeros[0]}; where an adapter was merged into a pruned model, aerogel.merge keeps the zeros",
            AerogelWarning,
            stacklevel=2,
        )
    fuse(model)
    return model


def decompress(model: PreTrainedModel) -> PreTrainedModel:
    """Restores the dense layers of a compressed model, in place and bit for bit, and returns it."""
    expect(model, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    for name, module in sparse_layers(model):
        model.set_submodule(name, module.to_dense())
    unfuse(model)
    unmark(model)
    return model
