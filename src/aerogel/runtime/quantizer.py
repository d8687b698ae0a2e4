"""Packed checkpoints in transformers: `save_pretrained` writes them and `AutoModel….from_pretrained` loads them.

transformers finds the quantizer of a checkpoint by the `quantization_config` in its config.json. This module is
imported while transformers is, so it imports transformers' models and layers, and modules that need them, in functions.
"""

import contextlib
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from aerogel.errors import ModelError, first_line
from aerogel.models.marking import HINT, HINT_FIELD, METHOD, VERSION
from aerogel.runtime import transformers_private as private
from aerogel.runtime.checkpoint import Checkpoint
from aerogel.runtime.model_methods import METHODS, adapt
from aerogel.runtime.packable import packable_layers
from aerogel.runtime.values import (
    FLOATS,
    HEAD_CHOICES,
    VALUE_CHOICES,
    VALUE_TYPES,
    HeadChoice,
    ValueChoice,
    check_head_values,
    chosen_type,
)
from aerogel.structure.plan import Plan, read_plan, write_plan

READABLE = (2, VERSION)  # in version 2 no values are integers


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """`quantization_config` of a checkpoint that is packed, or whose layers differ in size, or both.

    It has a version, `values` and `head_values` if they were rounded, the `structure` (see `Plan`) if heads or neurons
    were removed, and `packed`, false if that is all. Raises `ModelError` for anything else.
    """

    def __init__(
        self,
        quant_method: str = METHOD,
        version: int = VERSION,
        values: ValueChoice | None = None,
        head_values: HeadChoice | None = None,
        structure: dict[str, Any] | None = None,
        packed: bool = True,
        **unknown: Any,
    ) -> None:
        if version not in READABLE or isinstance(version, bool):
            readable = " and ".join(map(str, READABLE))
            raise ModelError(f"packed checkpoint of version {version!r}: this aerogel reads versions {readable}")
        if unknown or quant_method != METHOD:
            wrong = sorted(unknown) or [repr(quant_method)]
            raise ModelError(
                f"the quantization_config of a packed checkpoint can't have {wrong[0]}: expected {METHOD!r}, a version "
                f"and optional values, one of {', '.join(VALUE_CHOICES)}, head_values, {', '.join(HEAD_CHOICES)}, "
                "structure, and packed"
            )
        if values is not None:
            chosen_type(values)
        check_head_values(head_values, values)
        if not isinstance(packed, bool) or not (packed or (structure and not values)):
            raise ModelError(
                f"packed in config.json is {packed!r}: expected false only where structure is given and values are not"
            )
        self.quant_method: Any = quant_method
        self.version = VERSION  # in which the checkpoint will be written again
        if values:
            self.values = values
        if head_values:
            self.head_values = head_values
        if structure is not None:
            self.structure = Plan.of(structure).content()
        if not packed:
            self.packed = False

    @property
    def is_packed(self) -> bool:
        return getattr(self, "packed", True)

    @property
    def plan(self) -> Plan | None:
        content = getattr(self, "structure", None)
        return None if content is None else Plan.of(content)


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):
    """Loads packed weights directly into sparse layers, one at a time, without ever building the dense model.

    If heads or neurons were removed, the model is shrunk before it has weights.
    """

    is_compileable = True

    def __init__(self, quantization_config: PackedConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        # of each layer to load: its file, its key there, its dtype
        self.layers: dict[str, tuple[str, str, torch.dtype]] = {}

    @property
    def is_trainable(self) -> bool:
        return not self.quantization_config.is_packed

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        if not self.pre_quantized:
            raise ModelError("load the dense model as it is, then call aerogel.compress(model)")

    def is_serializable(self) -> bool:
        return True

    def get_state_dict_and_metadata(self, model: Any) -> Any:
        """Raises `ModelError` for a family whose checkpoints join the weights of several layers, unlike its models."""
        from aerogel.runtime.layers import sparse_layers

        joined = private.joined_weights(model, [f"{path}.weight" for path, _ in sparse_layers(model)])
        if joined:
            raise ModelError(
                f"checkpoints of {type(model).__name__} join {joined[0]} with other weights, which is impossible for "
                "packed weights: save the model that aerogel.decompress(model) returns"
            )
        return super().get_state_dict_and_metadata(model)

    def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        """`model.dequantize()`: restores the dense model, in place, in its own dtype or in `dtype`."""
        dense = restore_dense(model)
        return dense if dtype is None else dense.to(dtype)

    def update_attn_implementation(self, config: Any) -> Any:
        """Called before the model is built. Raises `ModelError` if the files are too small for its layers."""
        from aerogel.models.bounds import check_layers

        folder = Path(config.name_or_path)
        if folder.is_dir():
            try:
                check_layers(folder, config.to_dict())
            except (SafetensorError, OSError, ValueError) as error:
                raise ModelError(f"{folder}: a weight file is damaged ({first_line(error)})") from error
        if getattr(config, HINT_FIELD, None) == HINT:
            delattr(config, HINT_FIELD)
        return super().update_attn_implementation(config)

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        if self.quantization_config.is_packed and str(dtype).removeprefix("torch.") not in FLOATS:
            raise ModelError(f"a packed checkpoint can't be loaded in {dtype}: choose one of {', '.join(FLOATS)}")
        return dtype

    def update_device_map(self, device_map: Any) -> Any:
        """The CPU for packed weights, also for "auto" and the like. Raises `ModelError` for another device."""
        if not self.quantization_config.is_packed:
            return device_map
        if isinstance(device_map, str):
            return {"": torch.device("cpu")}
        if others := {str(device) for device in (device_map or {}).values()} - {"cpu"}:
            raise ModelError(f"a packed checkpoint is loaded and runs on the CPU, not on {min(others)}")
        return device_map

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: list[str] | None = None, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        """Shrinks the model to its structure, then hides the packed weights among the tensors of the files.

        Raises `ModelError` if the structure does not fit the model, and for files that do not fit it then.
        """
        plan, is_packed = self.quantization_config.plan, self.quantization_config.is_packed
        if plan:
            from aerogel.structure.empty import OutputBias
            from aerogel.structure.shrink import shrink_as_planned

            plan = shrink_as_planned(model, plan)
            for module in model.modules():
                if any(isinstance(part, OutputBias) for part in module.children()):
                    private.keep_uninitialized(module)  # which would look for the matrices that it had
            self.quantization_config.structure = plan.content()
        files = checkpoint_files or []
        if not is_packed and not all(file.endswith(".safetensors") for file in files):
            return  # transformers compares sizes
        if is_packed and not files:
            raise ModelError("a packed checkpoint is loaded from its files, not from a state_dict")
        state = model.state_dict()
        checkpoint = Checkpoint.of(model, files, state)
        if files and plan:
            checkpoint.check_structure(model, state, plan)
        if not is_packed:
            checkpoint.check_memory(model)
            return
        checkpoint.check(model, state)
        precise, packable = private.float32_layers(model, dtype), packable_layers(model)
        for key in checkpoint.packed:
            for name in checkpoint.names[key] & state.keys():
                path = name.removesuffix(".weight")
                if path not in packable:
                    raise ModelError(
                        f"layer {path} is packed in the checkpoint, but in {type(model).__name__} it is "
                        "not a linear layer with a weight of its own"
                    )
                module = model.get_submodule(path)
                weight: torch.Tensor = module.weight.detach()
                del module.weight  # no parameter, so that transformers does not initialise it
                module.weight = weight
                private.keep_uninitialized(weight)
                in_float32 = any(re.search(rf"(^|\.){re.escape(part)}(\.|$)", path) for part in precise)
                self.layers[path] = checkpoint.files[key], key, torch.float32 if in_float32 else weight.dtype
        private.hide_keys(model, (name for key in checkpoint.packed for name in {key, *checkpoint.names[key]}))

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        from aerogel.runtime.fused import fuse
        from aerogel.runtime.layers import SparseLinear, decode_layer, put_layer

        if not self.quantization_config.is_packed:
            unmark(model)
            return model
        private.unhide_keys(model)
        rounding = VALUE_TYPES.get(getattr(self.quantization_config, "values", ""))
        with contextlib.ExitStack() as stack:
            opened: dict[str, Any] = {}
            for path, (file, key, dtype) in self.layers.items():
                if file not in opened:
                    opened[file] = stack.enter_context(safe_open(file, framework="pt", backend="pread"))
                module = model.get_submodule(path)
                shape = tuple(module.weight.shape)
                rows, columns = shape if isinstance(module, nn.Linear) else shape[::-1]
                packed = decode_layer(path, opened[file].get_tensor(key), (rows, columns), dtype, rounding)
                dense_class = nn.Linear if isinstance(module, nn.Linear) else type(module)
                put_layer(model, path, SparseLinear(packed, module.bias, dense_class).train(module.training))
        self.layers = {}
        model.is_quantized = False  # transformers refuses `half` and `float` for quantized models; sparse layers follow
        adapt(model)
        fuse(model, getattr(self.quantization_config, "head_values", None))
        return model


def mark(model: Any, values: ValueChoice | None = None, head_values: HeadChoice | None = None) -> None:
    """Makes `save_pretrained` write a packed checkpoint. Raises `ModelError` for unknown values."""
    plan = read_plan(model)
    structure = plan.content() if plan else None
    model.hf_quantizer = PackedQuantizer(PackedConfig(values=values, head_values=head_values, structure=structure))
    model.config.quantization_config = model.hf_quantizer.quantization_config
    adapt(model)


def restore_dense(model: Any) -> Any:
    """Replaces the sparse layers and fused blocks of a model by its own, in place, and returns it unmarked."""
    from aerogel.runtime.fused import unfuse
    from aerogel.runtime.layers import sparse_layers

    for name, layer in sparse_layers(model):
        model.set_submodule(name, layer.to_dense())
    unfuse(model)
    unmark(model)
    return model


def unmark(model: Any) -> None:
    """The inverse of `mark`: what is left is a mark of the structure, if heads or neurons were removed."""
    plan = read_plan(model)
    for name in METHODS:
        vars(model).pop(name, None)
    if isinstance(getattr(model, "hf_quantizer", None), PackedQuantizer):
        model.hf_quantizer.remove_quantization_config(model)
    if plan:
        write_plan(model, plan)
