"""LoRA adapters of peft on packed layers.

peft selects the class of an adapter by the class of the layer, in functions that only take layers that it knows.
tests/ecosystem/test_peft.py says what broke. This module is imported while peft is.
"""

import warnings
from typing import Any

from peft.tuners.lora import model as lora_model
from peft.tuners.lora.layer import Linear
from peft.tuners.tuners_utils import BaseTunerLayer

dispatch_others = lora_model.dispatch_default


def dispatch(target: Any, adapter_name: str, config: Any, **settings: Any) -> Any:
    """The LoRA layer around a packed layer, which computes with both; for any other layer, peft's own."""
    from transformers.pytorch_utils import Conv1D

    from aerogel.runtime.layers import SparseLinear

    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    if not isinstance(base, SparseLinear):
        return dispatch_others(target, adapter_name, config=config, **settings)
    is_transposed = base.dense_class is Conv1D
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type")  # whose sizes peft then takes all the same
        layer = Linear(target, adapter_name, config=config, is_target_conv_1d_layer=is_transposed, **settings)
    layer.fan_in_fan_out = is_transposed  # of the dense weight, once the layer is decompressed
    return layer


lora_model.dispatch_default = dispatch
