"""What the runtime needs of transformers that has no public or no stable name.

tests/runtime/test_transformers_private.py says what broke. Besides, `PackedQuantizer` overrides the methods that
transformers documents for quantizers.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any

import torch

OUTPUT_CAPTURING = "transformers.utils.output_capturing"  # the module whose hooks only collect outputs


def attention_implementation(config: Any) -> str | None:
    """The name of the attention function: "sdpa", "eager", ..."""
    name: str | None = config._attn_implementation
    return name


def float32_layers(model: Any, dtype: torch.dtype | None) -> list[str]:
    """Parts of names of the modules that stay in float32 when a model is loaded in `dtype`."""
    return list(model._get_dtype_plan(dtype))


def may_be_missing(model: Any, name: str) -> bool:
    """Whether the class says that checkpoints may lack this tensor."""
    return _matches(name, model._keys_to_ignore_on_load_missing)


def may_be_unexpected(model: Any, name: str) -> bool:
    """Whether the class says that checkpoints may have this tensor in excess."""
    return _matches(name, model._keys_to_ignore_on_load_unexpected)


def _matches(name: str, patterns: Iterable[str] | None) -> bool:
    return any(re.search(pattern, name) for pattern in patterns or ())


def hide_keys(model: Any, names: Iterable[str]) -> None:
    """Adds tensors to those that checkpoints may have in excess, until `unhide_keys`."""
    before = model._keys_to_ignore_on_load_unexpected or ()
    model._keys_to_ignore_on_load_unexpected = {*before, *(f"^{re.escape(name)}$" for name in names)}


def unhide_keys(model: Any) -> None:
    del model._keys_to_ignore_on_load_unexpected


def keep_uninitialized(part: Any) -> None:
    """Prevents transformers from initialising a tensor that it did not load, or a module in the way of its family."""
    part._is_hf_initialized = True


def names_in_model(model: Any, keys: Iterable[str], state: Collection[str]) -> dict[str, set[str]]:
    """The names that transformers gives to tensors of a checkpoint in the model, which has the names `state`."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    prefix, names = model.base_model_prefix, {}
    for key in keys:
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], prefix, state)
        matching = (converter for converter in converters if pattern in converter.source_patterns)
        targets: list[str] = next((converter.target_patterns for converter in matching), [])
        names[key] = {name, *(name.replace(targets[0], target) for target in targets)}
    return names


def joined_weights(model: Any, names: Iterable[str]) -> list[str]:
    """Those of these weights that checkpoints of the model's family join with others."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, apply_converters

    transforms = get_model_conversion_mapping(model, add_legacy=False)
    joining = [transform.reverse_transform() for transform in transforms if isinstance(transform, WeightConverter)]
    return [name for name in names if apply_converters(name, joining)[1] is not None]
