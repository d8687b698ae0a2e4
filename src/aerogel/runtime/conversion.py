"""Replaces a model's pruned layers by sparse ones, and back."""

import warnings
from collections import Counter
from pathlib import Path
from typing import TypeVar

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from aerogel.errors import TRANSFORMERS_MODEL, AerogelWarning, ModelError, expect
from aerogel.models import inner_model, prunable_weights
from aerogel.models.checkpoint import file_tensors, weight_files
from aerogel.runtime.codec import START, stored_type
from aerogel.runtime.fused import fuse
from aerogel.runtime.fused.head import Int8Head, head_weight
from aerogel.runtime.layers import SparseLinear, in_layer, put_layer, sparse_layers
from aerogel.runtime.packable import packable_layers
from aerogel.runtime.packed import BY_DTYPE, check_packable, check_roundable
from aerogel.runtime.quantizer import mark, restore_dense, unmark
from aerogel.runtime.semi_structured import restore_two_to_four, run_two_to_four
from aerogel.runtime.values import HeadChoice, ValueChoice, check_head_values, chosen_type
from aerogel.tables import counted

# Below this share of zeros the dense product is as fast: per weight that is not zero, the sparse kernel is slower.
LEAST_SPARSITY = 0.4
WITHOUT_ZEROS = 0.01  # below this share of zeros a matrix was not pruned, or has lost its zeros


Model = TypeVar("Model", bound=nn.Module)


def compress(
    model: Model,
    values: ValueChoice | None = None,
    head_values: HeadChoice | None = None,
    device: str = "cpu",
) -> Model:
    """Packs every prunable layer with enough zeros, in place, and returns the model, ready to run sparse.

    Layers under `LEAST_SPARSITY` stay dense, since packing would not speed them up. Results agree with those of the
    dense model within float32 rounding. `model.save_pretrained` writes a packed checkpoint. A compressed model can't be
    trained: call `decompress` first.

    With values="int8" every prunable layer is packed, whatever its sparsity. Weights are rounded to integers with a
    scale for each output, see `aerogel.models.int8`; weights that are on such a grid stay what they are. Activations
    are rounded to 8 bits for each token when the model runs: results are close to those of the dense model, but not
    within float32 rounding. Four neighbouring inputs of an output are stored and multiplied together, so the pattern
    "block:1x4" is the fastest and smallest. Layers that generate token by token are stored in memory as single integers
    under a bit mask, where that is smaller.

    With head_values="int8" as well, the language-model head is computed in int8 too: small models with a large
    vocabulary spend much of their time there. A head that is tied to the embedding gets a copy in memory, and the
    weight itself stays as it is, also in checkpoints; a head of its own is packed like other layers.

    With device="cuda" the model is moved to an NVIDIA GPU of compute capability 8.0 or above, and linear layers whose
    weights are 2:4, in float16 or bfloat16, run in torch's semi-structured kernels. Such a model is for use in this
    process: `decompress` it to save it. An `AerogelWarning` says which layers stay dense.

    Args:
        model: a transformers model, or a `SentenceTransformer` or `CrossEncoder`; for device "cpu" with its weights
            there.
        values: "bfloat16" or "int8" rounds the weights to that, also in layers that are already packed.
        head_values: "int8" rounds the language-model head, together with values="int8".
        device: "cpu", or "cuda" or "cuda:1" for 2:4 models.

    Raises `ModelError`, before it changes anything, for other `values` and `head_values`, for weights that can't be
    packed (for int8 also infinite or NaN ones), for a model without prunable weights, and for `head_values` of a model
    without a language-model head; with device="cuda" without such a GPU, for other dtypes, for a model without a 2:4
    layer, and for `values`. Warns with an `AerogelWarning` of matrices without
    zeros that stay dense in a model that has others with zeros, and of blocks that can't be fused with these versions
    of transformers and torch.

    >>> import aerogel
    >>> model, _ = aerogel.load("tiny-bert")
    >>> _ = aerogel.prune(model, sparsity=0.9)
    >>> before = aerogel.inspect(model)
    >>> aerogel.inspect(compress(model)) == before
    True
    """
    inner = inner_model(model)
    expect(inner, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    if device != "cpu":
        if values or head_values:
            raise ModelError(f"values {values or head_values} are for device cpu: leave them out with device {device}")
        run_two_to_four(inner, device, model.to)
        return model
    before = [layer for _, layer in sparse_layers(inner)]
    packable = packable_layers(inner)
    weights = [weight for weight in prunable_weights(inner, to_read=True) if weight.name in packable]
    value_type = None if values is None else chosen_type(values)
    check_head_values(head_values, values)
    head = head_weight(inner) if head_values else None
    if head and head.name in packable:
        weights.append(head)
    for weight in [*weights, head] if head else weights:
        with in_layer(weight.name):
            check_packable(weight.matrix, value_type)
    for layer in before:
        with in_layer(layer.name):
            check_roundable(layer.values, value_type)
    mark(inner, values, head_values)
    if value_type:
        for layer in before:
            layer.round_values(value_type)
    without_zeros = []
    for weight in weights:
        layer = SparseLinear.of(weight.module, value_type)
        sparsity = 1 - layer.density
        if sparsity >= LEAST_SPARSITY or (value_type and not value_type.is_float):
            put_layer(inner, weight.name, layer)
        elif sparsity < WITHOUT_ZEROS:
            without_zeros.append(weight.name)
    packed = sparse_layers(inner)
    if not packed:
        unmark(inner)
    elif without_zeros:
        warnings.warn(
            f"left dense for lack of zeros: {counted(len(without_zeros), 'matrix', 'matrices')}, the first is "
            f"{without_zeros[0]}; packed: {len(packed)} "
            "(to merge an adapter into a pruned model and keep its zeros, use aerogel.merge)",
            AerogelWarning,
            stacklevel=2,
        )
    fuse(inner, head_values)
    return model


def decompress(model: Model) -> Model:
    """Restores the dense layers of a compressed model, in place, and returns it.

    Weights are restored bit for bit as they were packed. Those that were rounded, to bfloat16 or to int8, stay rounded:
    of int8 the weight is the integer times the scale of its output.

    >>> import aerogel
    >>> model, _ = aerogel.load("tiny-bert")
    >>> _ = aerogel.prune(model, sparsity=0.9)
    >>> type(decompress(aerogel.compress(model)).bert.encoder.layer[0].output.dense).__name__
    'Linear'
    """
    inner = inner_model(model)
    expect(inner, PreTrainedModel, ModelError, TRANSFORMERS_MODEL)
    restore_two_to_four(inner)
    restore_dense(inner)
    return model


def packed_types(model: nn.Module) -> dict[str, int]:
    """The number of layers by the type of their packed values in memory: {"int8": 12}; empty for a dense model.

    A head with a copy in int8 counts as well.
    """
    packed = [BY_DTYPE[layer.values.dtype].name for _, layer in sparse_layers(model)]
    return dict(Counter(packed) + _int8_heads(model))


def stored_types(model: nn.Module, folder: Path) -> dict[str, int]:
    """As `packed_types`, by the types of the values in the files of the model, which kernels may read as others."""
    if not sparse_layers(model):
        return {}
    types: Counter[str] = Counter()
    for file in weight_files(folder):
        keys = [key for key, tensor in file_tensors(file).items() if tensor.is_bytes]
        with safe_open(file, framework="pt", backend="pread") as content:
            types.update(stored_type(content.get_slice(key)[:START].numpy().tobytes()).name for key in keys)
    return dict(types + _int8_heads(model))


def _int8_heads(model: nn.Module) -> Counter[str]:
    return Counter("int8" for module in model.modules() if isinstance(module, Int8Head))
