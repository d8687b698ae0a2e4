"""What the runtime needs of torch that has no public name. tests/runtime/test_torch_private.py says what broke.

Besides, `SparseLinear` overrides `_apply`, `_save_to_state_dict` and `_load_from_state_dict` of `nn.Module`.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn


def tensor_without_memory(cls: type[Tensor], shape: tuple[int, int], dtype: torch.dtype) -> Any:
    """A tensor of a subclass on the CPU that has no memory."""
    return Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=torch.device("cpu"))


def plain_functions() -> AbstractContextManager[Any]:
    """Functions of torch treat tensors of subclasses as plain ones, and return plain ones."""
    context: AbstractContextManager[Any] = torch._C.DisableTorchFunctionSubclass()
    return context


def with_buffer(state: dict[str, Any], name: str, value: Tensor) -> dict[str, Any]:
    """The state of a module, as pickled, with another tensor for one buffer."""
    return state | {"_buffers": state["_buffers"] | {name: value}}


def needs_dispatcher() -> bool:
    """Whether something may record, trace, differentiate or transform the next operator."""
    return (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch.jit.is_tracing()
        or torch.autograd.profiler._is_profiler_enabled
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def present_buffers(module: nn.Module, names: Iterable[str]) -> list[Tensor]:
    """Those of these buffers that are not None; attributes of a module are slow to read."""
    buffers = [module._buffers[name] for name in names]
    return [buffer for buffer in buffers if buffer is not None]


def inner_modules(module: nn.Module) -> list[nn.Module]:
    """All modules inside of one, in a tenth of the time of `module.modules()`."""
    found = [child for child in module._modules.values() if child is not None]
    for inner in found:  # which grows
        found += [child for child in inner._modules.values() if child is not None]
    return found


def changes_call(module: nn.Module) -> bool:
    """Whether a call of the module does more than its class says, apart from forward hooks."""
    return bool(module._forward_pre_hooks) or "forward" in module.__dict__


def forward_hooks(module: nn.Module) -> dict[int, Any]:
    return module._forward_hooks


def remove_hooks(module: nn.Module, which: Callable[[Any], bool]) -> None:
    """Removes the hooks before and after the module's forward for which this is true."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for number in [number for number, hook in hooks.items() if which(hook)]:
            del hooks[number]


def changes_in_place(tensor: Tensor) -> int | None:
    """How often a plain tensor or parameter was changed in place, but for changes of `tensor.data`.

    `None` for one that does not count: a tensor made in inference mode, and subclasses.
    """
    counts = type(tensor) in (Tensor, nn.Parameter) and not tensor.is_inference()
    return tensor._version if counts else None


def without_buffers(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a module, as pickled, without its buffers."""
    return state | {"_buffers": {}}
