"""Methods of transformers' models that ignore packed weights, and what replaces them."""

from functools import partial
from typing import Any

from torch import nn

from aerogel.errors import ModelError
from aerogel.models.marking import save_pretrained

METHODS = ("num_parameters", "save_pretrained", "set_output_embeddings", "resize_token_embeddings")


def adapt(model: Any) -> None:
    """Replaces methods of a packed model by partials, which copy and pickle with it."""
    model.num_parameters = partial(num_parameters, model)
    model.save_pretrained = partial(save_pretrained, model)
    model.set_output_embeddings = partial(set_output_embeddings, model)
    model.resize_token_embeddings = partial(resize_token_embeddings, model)


def set_output_embeddings(model: Any, new_embeddings: nn.Module) -> None:
    """As in transformers, which also replaces the head when it resizes embeddings, with `head_values` as before."""
    from aerogel.runtime.fused.head import set_head

    type(model).set_output_embeddings(model, new_embeddings)
    set_head(model, getattr(model.hf_quantizer.quantization_config, "head_values", None))


def resize_token_embeddings(model: Any, *arguments: Any, **options: Any) -> nn.Module:
    """As in transformers. Raises `ModelError`, before anything is changed, if the head is packed."""
    from aerogel.runtime.layers import SparseLinear

    head = model.get_output_embeddings()
    if isinstance(head, SparseLinear) and (arguments or options):
        raise ModelError(
            f"the head {head.name} is packed and can't be resized: call aerogel.decompress(model) first, and compress "
            "the model again"
        )
    embeddings: nn.Module = type(model).resize_token_embeddings(model, *arguments, **options)
    return embeddings


def num_parameters(model: Any, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
    """The number of parameters of the dense model; packed ones do not count as trainable."""
    from aerogel.runtime.layers import sparse_layers

    packed = 0 if only_trainable else sum(layer.out_features * layer.in_features for _, layer in sparse_layers(model))
    count: int = type(model).num_parameters(model, only_trainable, exclude_embeddings)
    return count + packed
