"""Packed checkpoints in transformers: `save_pretrained` writes them and `AutoModel….from_pretrained` loads them.

transformers knows a checkpoint of another form by the `quantization_config` in its config.json, and asks the quantizer
registered for it. This module is imported in the middle of importing transformers, so it imports the models and layers
of transformers, and what builds on them, when they are used.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from aerogel import files
from aerogel.errors import ModelError, first_line
from aerogel.runtime import codec
from aerogel.runtime.packable import packable_layers

METHOD, VERSION = "aerogel", 2
# transformers quotes this field of config.json where it names no weight file, and nothing else that a checkpoint says
HINT_FIELD = "transformers_weights"
HINT = "the weights are packed, so `import aerogel` (pip install aerogel) before loading the model"


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """`quantization_config` of a packed checkpoint: its version, and `values` where bfloat16 was asked for.

    Raises `ModelError` for anything else.
    """

    def __init__(
        self,
        quant_method: str = METHOD,
        version: int = VERSION,
        values: Literal["bfloat16"] | None = None,
        **unknown: Any,
    ) -> None:
        if version != VERSION or isinstance(version, bool):
            raise ModelError(
                f"the checkpoint has version {version!r} of the packed format, and this aerogel reads version {VERSION}"
            )
        if unknown or quant_method != METHOD or values not in (None, "bfloat16"):
            found = sorted(unknown) or [f"{quant_method!r}, values {values!r}"]
            raise ModelError(f"the quantization_config of a packed checkpoint can't have {found[0]}")
        self.quant_method: Any = quant_method
        self.version = version
        if values:
            self.values = values


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):
    """Loads what was packed straight into sparse layers, one at a time: the dense model is never there."""

    is_compileable = True
    is_trainable = False

    def __init__(self, quantization_config: PackedConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.awaited: dict[str, tuple[str, str, torch.dtype]] = {}

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        if not self.pre_quantized:
            raise ModelError("load the dense model as it is, then call aerogel.compress(model)")

    def is_serializable(self) -> bool:
        return True

    def get_state_dict_and_metadata(self, model: Any) -> Any:
        """Raises `ModelError` for a family whose checkpoints join the weights of several layers, unlike its models."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, apply_converters

        from aerogel.runtime.layers import sparse_layers

        transforms = get_model_conversion_mapping(model, add_legacy=False)
        joining = [found.reverse_transform() for found in transforms if isinstance(found, WeightConverter)]
        for path, _ in sparse_layers(model):
            if apply_converters(f"{path}.weight", joining)[1] is not None:
                raise ModelError(
                    f"layer {path} is joined with others in checkpoints of {type(model).__name__}, which can't be done "
                    "with packed weights: save the model that aerogel.decompress(model) gives"
                )
        return super().get_state_dict_and_metadata(model)

    def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        """`model.dequantize()`: the dense model, in place, in its own dtype or in `dtype`."""
        from aerogel.runtime.conversion import decompress

        dense = decompress(model)
        return dense if dtype is None else dense.to(dtype)

    def update_attn_implementation(self, config: Any) -> Any:
        """Called before the model is built. Raises `ModelError` where its layers are out of proportion to the files."""
        from aerogel.models.bounds import check_layers

        folder = Path(config.name_or_path)
        if folder.is_dir():
            try:
                check_layers(folder, config.to_dict())
            except (SafetensorError, OSError, ValueError) as error:
                raise ModelError(f"{folder}: its weight files are not whole ({first_line(error)})") from error
        if getattr(config, HINT_FIELD, None) == HINT:
            delattr(config, HINT_FIELD)
        return super().update_attn_implementation(config)

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        if dtype not in codec.STORED_TYPES:
            raise ModelError(f"a packed checkpoint can't be loaded in {dtype}: choose float32, bfloat16 or float16")
        return dtype

    def update_device_map(self, device_map: Any) -> Any:
        """The CPU alone, which is also what "auto" and its like get. Raises `ModelError` for another."""
        if isinstance(device_map, str):
            return {"": torch.device("cpu")}
        if others := {str(device) for device in (device_map or {}).values()} - {"cpu"}:
            raise ModelError(f"a packed checkpoint is loaded on the CPU alone, where it runs, not on {min(others)}")
        return device_map

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        """Finds the packed layers in the files, checks that no tensor is missing, and sets their weights aside."""
        if not checkpoint_files:
            raise ModelError("a packed checkpoint is loaded from its files, not from a state_dict")
        tensors, packed = _tensors(checkpoint_files)
        names = _names_in_model(model, tensors)
        _check_whole(model, names)
        _check_memory(model, checkpoint_files, {name for key in packed for name in names[key]})
        precise = model._get_dtype_plan(dtype)
        packable, state = packable_layers(model), model.state_dict()
        for key in packed:
            for name in names[key] & state.keys():
                path = name.removesuffix(".weight")
                if path not in packable:
                    raise ModelError(
                        f"layer {path} is packed in the checkpoint, but in {type(model).__name__} it is "
                        "not a linear layer with a weight of its own"
                    )
                kept = any(re.search(rf"(^|\.){re.escape(part)}(\.|$)", path) for part in precise)
                weight = _set_aside(model.get_submodule(path))
                self.awaited[path] = tensors[key], key, torch.float32 if kept else weight.dtype
        ignored = model._keys_to_ignore_on_load_unexpected or ()
        model._keys_to_ignore_on_load_unexpected = {
            *ignored,
            *(f"^{re.escape(name)}$" for key in packed for name in {key, *names[key]}),
        }

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        from aerogel.runtime.fused import fuse
        from aerogel.runtime.layers import SparseLinear, put_layer, unpacked

        del model._keys_to_ignore_on_load_unexpected
        rounded = getattr(self.quantization_config, "values", None) == "bfloat16"
        with contextlib.ExitStack() as stack:
            opened: dict[str, Any] = {}
            for path, (file, key, dtype) in self.awaited.items():
                if file not in opened:
                    opened[file] = stack.enter_context(safe_open(file, framework="pt", backend="pread"))
                module = model.get_submodule(path)
                shape = tuple(module.weight.shape)
                rows, columns = shape if isinstance(module, nn.Linear) else shape[::-1]
                packed = unpacked(path, opened[file].get_tensor(key), (rows, columns), dtype, rounded)
                was = nn.Linear if isinstance(module, nn.Linear) else type(module)
                put_layer(model, path, SparseLinear(packed, module.bias, was).train(module.training))
        self.awaited = {}
        model.is_quantized = False  # else transformers refuses `half` and `float`, which sparse layers follow
        _adapt(model)
        fuse(model)
        return model


def mark(model: Any, values: Literal["bfloat16"] | None = None) -> None:
    """Has `save_pretrained` write the model as a packed checkpoint. Raises `ModelError` for other `values`."""
    model.hf_quantizer = PackedQuantizer(PackedConfig(values=values))
    model.config.quantization_config = model.hf_quantizer.quantization_config
    _adapt(model)


def unmark(model: Any) -> None:
    """The inverse of `mark`."""
    for name in ("num_parameters", "save_pretrained"):
        vars(model).pop(name, None)
    if isinstance(getattr(model, "hf_quantizer", None), PackedQuantizer):
        model.hf_quantizer.remove_quantization_config(model)


def _adapt(model: Any) -> None:
    """Replaces methods of transformers that do not see packed weights; partials are copied and pickled with a model."""
    model.num_parameters = partial(num_parameters, model)
    model.save_pretrained = partial(save_pretrained, model)


def save_pretrained(model: Any, save_directory: str | os.PathLike[str], **options: Any) -> None:
    """As transformers has it, with a hint in config.json for those who load the checkpoint without aerogel."""
    type(model).save_pretrained(model, save_directory, **options)
    path = Path(save_directory) / "config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8")) | {HINT_FIELD: HINT}
        files.write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def num_parameters(model: Any, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
    """Parameters of a packed model: as many as of the dense one; packed ones are not among the trainable."""
    from aerogel.runtime.layers import sparse_layers

    packed = 0 if only_trainable else sum(layer.out_features * layer.in_features for _, layer in sparse_layers(model))
    count: int = type(model).num_parameters(model, only_trainable, exclude_embeddings)
    return count + packed


def _tensors(checkpoint_files: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The file of each tensor of a checkpoint, and which of them are packed weights: rows of bytes."""
    found: dict[str, str] = {}
    packed = []
    for file in checkpoint_files:
        try:
            with safe_open(file, framework="pt") as content:
                for key in content.keys():  # noqa: SIM118  no dictionary
                    if key in found:
                        raise ModelError(f"tensor {key} is in two files of the checkpoint")
                    found[key] = file
                    tensor = content.get_slice(key)
                    if key.endswith(".weight") and tensor.get_dtype() == "U8" and len(tensor.get_shape()) == 1:
                        packed.append(key)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: no whole safetensors file ({first_line(error)})") from error
    return found, packed


def _names_in_model(model: Any, keys: Iterable[str]) -> dict[str, set[str]]:
    """The names that tensors of a checkpoint get in the model, as transformers would choose them."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix
    names = {}
    for key in keys:
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], prefix, state)
        targets: list[str] = next(
            (found.target_patterns for found in converters if pattern in found.source_patterns), []
        )
        names[key] = {name, *(name.replace(targets[0], target) for target in targets)}
    return names


def _check_whole(model: Any, names: dict[str, set[str]]) -> None:
    """Raises `ModelError` where the checkpoint lacks a tensor of the model, or has one too many.

    A model of another class than the one that was saved may have a new head, or leave the old one out; not so its body.
    A bare body may have been saved without its optional parts, which transformers then initialises, and reports.
    """
    from aerogel.models.checkpoint import is_optional

    state, tied, prefix = model.state_dict(), model.all_tied_weights_keys, f"{model.base_model_prefix}."
    same = type(model).__name__ in (model.config.architectures or ())
    bare = model.base_model is model
    found = {name for several in names.values() for name in several}
    found |= {source for target, source in tied.items() if target in found}
    missing = [
        name
        for name in state
        if name not in found
        and name not in tied
        and not _ignored(name, model._keys_to_ignore_on_load_missing)
        and not (bare and _ignored(prefix + name, model._keys_to_ignore_on_load_missing))  # as Marian's body names them
        and not (is_optional(name) and (bare or not same))
        and (same or bare or name.startswith(prefix))
    ]
    if missing:
        raise ModelError(f"the checkpoint lacks {len(missing)} tensors of the model, the first is {missing[0]}")
    prefixed = any(key.startswith(prefix) for key in names)
    surplus = [
        key
        for key, several in names.items()
        if not several & state.keys()
        and not _ignored(key, model._keys_to_ignore_on_load_unexpected)
        and not (is_optional(key) and (bare or not same))
        and (same or key.startswith(prefix) or not prefixed)
    ]
    if surplus:
        raise ModelError(f"the checkpoint has {len(surplus)} tensors too many for the model, the first is {surplus[0]}")


def _check_memory(model: Any, checkpoint_files: Iterable[str], packed: set[str]) -> None:
    from aerogel.models.bounds import Contents

    shapes = {}
    for name, parameter in model.named_parameters():
        if name in packed and parameter.dim() == 2:
            is_linear = isinstance(model.get_submodule(name.removesuffix(".weight")), nn.Linear)
            shapes[name] = tuple(parameter.shape if is_linear else parameter.shape[::-1])
    Contents({}, sum(os.path.getsize(file) for file in checkpoint_files)).check_memory(model, shapes)


def _ignored(key: str, patterns: Iterable[str] | None) -> bool:
    return any(re.search(pattern, key) for pattern in patterns or ())


def _set_aside(module: Any) -> torch.Tensor:
    """Hides the weight on the meta device from transformers, which would otherwise initialise it as missing."""
    weight: torch.Tensor = module.weight.detach()
    weight._is_hf_initialized = True  # type: ignore[attr-defined]
    del module.weight
    module.weight = weight
    return weight
