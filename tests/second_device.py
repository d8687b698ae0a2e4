"""A second device on a machine without a GPU: its tensors refuse to meet those of the CPU, as those of a GPU do.

They claim PyTorch's device for other backends and hold a tensor of the CPU. `enable` changes torch for the whole
process; run as a script, this prunes small models on both devices and prints one line of JSON for each setting.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
aten = torch.ops.aten
TRANSFERS = (aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)  # by indices on either device


class SecondTensor(Tensor):
    """A tensor on the second device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> SecondTensor:
        tensor = Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=torch.device(NAME, 0)
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return run(function, arguments, keywords or {})

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def numpy(self, **options: Any) -> Any:
        raise TypeError(f"can't convert a tensor of device {NAME} to numpy")

    def tolist(self) -> Any:
        return self.cpu().tolist()


class SecondDevice(TorchDispatchMode):
    """Makes tensors on the second device, where a function is called with it, and moves them there."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return run(function, arguments, keywords or {})


def run(function: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
    """Runs an operator on the CPU, after a check that its tensors and its generator are on one device."""
    leaves = tree_leaves((arguments, keywords))
    there = any(isinstance(leaf, SecondTensor) for leaf in leaves)
    if keywords.get("device") is not None:
        there = torch.device(keywords["device"]).type == NAME
        keywords = keywords | {"device": torch.device("cpu")} if there else keywords
    if there and function not in TRANSFERS:
        if any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise RuntimeError(f"{function}: a generator of the CPU on device {NAME}")
        checked = tree_leaves((arguments[:1], arguments[2:])) if function in INDEXED else leaves
        for number, leaf in enumerate(checked):
            is_scalar = number > 0 and isinstance(leaf, Tensor) and leaf.dim() == 0
            if isinstance(leaf, Tensor) and not isinstance(leaf, SecondTensor) and not is_scalar:
                raise RuntimeError(f"{function}: a tensor of the CPU, {tuple(leaf.shape)}, meets device {NAME}")
    result = function(*tree_map(_inner, arguments), **tree_map(_inner, keywords))
    written = [name.name for name in function._schema.arguments if name.alias_info and name.alias_info.is_write]
    if written:
        return keywords.get(written[0], arguments[0]) if result is not None else None
    return tree_map(lambda leaf: SecondTensor(leaf) if type(leaf) is Tensor else leaf, result) if there else result


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, SecondTensor) else leaf


@contextmanager
def enabled() -> Iterator[None]:
    from aerogel.models import prunable

    _setup_privateuseone_for_python_backend(NAME)
    torch.__future__.set_swap_module_params_on_conversion(True)  # so that tied parameters stay tied
    prunable._check_weight = lambda *arguments: None  # it refuses subclasses of Tensor
    with SecondDevice():
        yield


SETTINGS: dict[str, dict[str, Any]] = {
    **{method: {"method": method, "sparsity": 0.5} for method in ("magnitude", "random", "ria", "wanda", "best")},
    "sparsegpt 2:4": {"method": "sparsegpt", "pattern": "2:4"},
    "admm in blocks": {"method": "admm", "sparsity": 0.5, "pattern": "block:1x4"},
    "swap": {"method": "wanda", "sparsity": 0.5, "swap": True},
    "swap 2:4": {"method": "admm", "pattern": "2:4", "swap": True},
    "swap in blocks": {"method": "wanda", "sparsity": 0.5, "pattern": "block:1x4", "swap": True},
    "reconstruction": {"method": "wanda", "sparsity": 0.5, "reconstruct": 1},
    "owl": {"method": "wanda", "sparsity": 0.5, "allocation": "owl"},
    "search": {"method": "magnitude", "sparsity": 0.5, "allocation": "search"},
    "int8": {"method": "wanda", "sparsity": 0.5, "values": "int8"},
    "structure": {"structure": 0.5},
}


def disagreeing(settings: dict[str, Any]) -> float:
    """The share of the weights that one device prunes and the other keeps, or of sub-layers with other structures."""
    from aerogel.pruning import prune
    from aerogel.structure import StructureConfig, prune_structure
    from heads import MODELS, inputs

    chosen = []
    for device in ("cpu", NAME):
        model = MODELS["classes"]()
        model.set_attn_implementation("eager")  # the same operators on both devices
        model.to(device)
        if "structure" in settings:
            structure = prune_structure(model, StructureConfig(sparsity=settings["structure"]), [inputs(model, 6)])
            chosen.append(torch.tensor([entry.kept for entry in structure.removed]))
        else:
            prune(model, calibration=[inputs(model, 6)], **settings)
            chosen.append(torch.cat([parameter.detach().cpu().flatten() == 0 for parameter in model.parameters()]))
        assert {parameter.device.type for parameter in model.parameters()} == {device}
    return float((chosen[0] != chosen[1]).float().mean())


def main() -> None:
    with enabled():
        for name, settings in SETTINGS.items():
            try:
                line: dict[str, Any] = {"disagreeing": disagreeing(settings)}
            except Exception as error:
                line = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(json.dumps({"name": name, **line}) + "\n")


if __name__ == "__main__":
    main()
