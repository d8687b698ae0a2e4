"""A model without its weights, and the size that they would take: for models that are larger than memory."""

import math
import os

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from aerogel.errors import ModelError
from aerogel.models.checkpoint import stored_tensors
from aerogel.models.loading import checkpoint_class, explained, from_config, load_config
from aerogel.models.location import local_folder, located
from aerogel.models.quiet import quiet_transformers


def skeleton(name: str | os.PathLike[str]) -> PreTrainedModel:
    """The model that `load` returns, with its parameters on the meta device and its buffers in memory.

    Raises `ModelError` for a checkpoint that is packed, quantized or of layers that differ in size.
    """
    path, local_only = located(name)
    config = load_config(name, path, local_only)
    if hasattr(config, "quantization_config"):
        raise ModelError(
            f"{name} is packed, quantized or has layers of different sizes: only a dense checkpoint can be pruned from "
            "its files (aerogel unpack writes one)"
        )
    config.dtype = torch.float32
    with explained(name, path), quiet_transformers():
        with torch.device("meta"), no_init_weights():
            model = from_config(checkpoint_class(config), config)
        for buffer_name, buffer in list(model.named_non_persistent_buffers()):
            path, _, leaf = buffer_name.rpartition(".")
            setattr(model.get_submodule(path), leaf, torch.empty_like(buffer, device="cpu"))
        model.initialize_weights()  # computes these buffers, as `from_pretrained` does
        model.tie_weights()
        return model.eval()


def float32_bytes(name: str | os.PathLike[str]) -> int | None:
    """The bytes of a model's tensors in float32, in which it is loaded.

    `None` without local safetensors files, and for a model that `skeleton` refuses.
    """
    folder = local_folder(name)
    if folder is None or hasattr(load_config(name, *located(name)), "quantization_config"):
        return None
    with explained(name, str(folder)):
        tensors = stored_tensors(folder)
    return 4 * sum(math.prod(tensor.shape) for tensor in tensors.values()) or None
