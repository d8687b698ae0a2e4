"""Which linear layers a sparse layer can replace, for packing and for loading alike."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# subclasses of `nn.Linear` in transformers and here whose own forward computes x Wᵀ + b too
SAME_FORWARD = ("FalconLinear", "FusedHead")


def packable_layers(model: nn.Module) -> set[str]:
    """Names of the linear layers that compute x Wᵀ + b and nothing else, with a weight of their own.

    Not included: subclasses of `nn.Linear` with another forward or more parameters, and layers whose weight is tied to
    that of another layer (the shared blocks of Zamba2).
    """
    tied = getattr(model, "all_tied_weights_keys", {})
    shared = {*tied, *tied.values()}
    layers = [(name, module) for name, module in model.named_modules() if _is_plain(module)]
    # without duplicates, so that a layer that is called several times (ALBERT) counts once
    holders = Counter(id(tensor) for module in model.modules() for tensor in module.parameters(recurse=False))
    return {name for name, module in layers if f"{name}.weight" not in shared and holders[id(module.weight)] == 1}


def runs_token_by_token(model: PreTrainedModel, name: str) -> bool:
    """Whether generation calls this layer for each token: it is in the decoder of a generating model, or its head."""
    if not model.can_generate():
        return False
    parts = name.split(".")
    path = [model.get_submodule(".".join(parts[:end])) for end in range(len(parts) + 1)]
    return path[-1] is model.get_output_embeddings() or any(module is model.get_decoder() for module in path)


def _is_plain(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    kind = type(module)
    is_known = kind.__module__.partition(".")[0] in ("aerogel", "transformers")
    plain = kind is Conv1D or (
        isinstance(module, nn.Linear)
        and (kind.forward is nn.Linear.forward or (kind.__name__ in SAME_FORWARD and is_known))
    )
    tensors = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    return plain and "forward" not in vars(module) and "weight" in tensors and tensors <= {"weight", "bias"}
