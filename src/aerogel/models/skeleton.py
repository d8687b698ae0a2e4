"""A model without its weights, and the size that they would take: for models that are larger than memory."""

import math
import os

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from aerogel.errors import ModelError, first_line
from aerogel.models.checkpoint import file_tensors, weight_files
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

    `None` without local safetensors files, and for a model that `skeleton` refuses. Raises `ModelError`, naming the
    file that is missing or truncated.
    """
    folder = local_folder(name)
    if folder is None or hasattr(load_config(name, *located(name)), "quantization_config"):
        return None
    count = 0
    with explained(name, str(folder)):
        for file in weight_files(folder):
            try:
                count += sum(math.prod(tensor.shape) for tensor in file_tensors(file).values())
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{file} is not a whole safetensors file ({first_line(error)})") from error
    return 4 * count or None
