"""Private names of torch: each still does what `torch_private` uses it for."""

from __future__ import annotations

import pickle
import warnings

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aerogel.runtime import torch_private as private


class Empty(Tensor):
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def, override]
        raise AssertionError("an operation reached a tensor without memory")


def test_tensors_without_memory_have_a_shape_on_the_cpu() -> None:
    tensor = private.tensor_without_memory(Empty, (3, 4), torch.bfloat16)
    assert (type(tensor), tensor.shape, tensor.dtype) == (Empty, (3, 4), torch.bfloat16), (
        "torch.Tensor._make_wrapper_subclass"
    )
    assert tensor.device.type == "cpu", "torch.Tensor._make_wrapper_subclass"


def test_functions_can_return_plain_tensors() -> None:
    class Named(Tensor):
        pass

    tensor = torch.ones(2).as_subclass(Named)
    assert type(tensor + 1) is Named
    with private.plain_functions():
        assert type(tensor + 1) is Tensor, "torch._C.DisableTorchFunctionSubclass"


def test_a_pickled_module_keeps_its_buffers_in_its_state() -> None:
    module = nn.BatchNorm1d(2)
    module.__setstate__(private.with_buffer(vars(module), "running_mean", torch.full((2,), 7.0)))
    assert module.running_mean.tolist() == [7, 7], "torch.nn.Module._buffers"
    assert pickle.loads(pickle.dumps(module)).running_mean[0] == 7


def test_what_needs_the_dispatcher_is_known() -> None:
    assert private.needs_dispatcher(), "torch.is_grad_enabled"
    with torch.no_grad():
        assert not private.needs_dispatcher()
        with torch.profiler.profile():
            assert private.needs_dispatcher(), "torch.autograd.profiler._is_profiler_enabled"
        with FlopCounterMode(display=False):
            assert private.needs_dispatcher(), "torch._C._len_torch_dispatch_stack"
        seen: list[bool] = []

        def observe(x: Tensor) -> Tensor:
            seen.append(private.needs_dispatcher())
            return x + 1

        torch.func.vmap(observe)(torch.ones(2))
        with warnings.catch_warnings(action="ignore"):
            torch.jit.trace(observe, torch.ones(2), check_trace=False)
        assert seen == [True, True], "torch._C._functorch.peek_interpreter_stack, torch.jit.is_tracing"
    with torch.inference_mode():
        assert not private.needs_dispatcher()


def test_hooks_of_a_module_are_known() -> None:
    module = nn.Linear(1, 1)
    assert not private.changes_call(module)
    assert not private.forward_hooks(module)
    module.register_forward_pre_hook(hook := lambda *_: None)
    assert private.changes_call(module), "torch.nn.Module._forward_pre_hooks"
    module.register_forward_hook(hook)
    assert list(private.forward_hooks(module).values()) == [hook], "torch.nn.Module._forward_hooks"


def test_a_replaced_forward_changes_the_call_of_a_module() -> None:
    module = nn.Linear(1, 1)
    module.forward = lambda x: x  # type: ignore[method-assign]
    assert private.changes_call(module), "torch.nn.Module.__setattr__"


def test_buffers_and_inner_modules_are_those_of_the_public_functions() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    inner = private.inner_modules(module)
    assert set(inner) == set(module.modules()) - {module}, "torch.nn.Module._modules"
    assert len(inner) == 4
    buffers = private.present_buffers(module[0], ("running_mean", "num_batches_tracked"))
    assert [id(buffer) for buffer in buffers] == [id(module[0].running_mean), id(module[0].num_batches_tracked)]


def test_changes_in_place_are_counted() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    counts = [private.changes_in_place(weight)]
    with torch.no_grad():
        weight.mul_(2)
        counts.append(private.changes_in_place(weight))
        weight[0] = 3
        counts.append(private.changes_in_place(weight))
        weight.detach().add_(1)
        counts.append(private.changes_in_place(weight))
    with torch.inference_mode():
        weight.copy_(torch.zeros(2, 2))
        counts.append(private.changes_in_place(weight))
        assert private.changes_in_place(torch.ones(2)) is None
    assert len({*counts}) == 5, "torch.Tensor._version"
    assert None not in counts
    assert private.changes_in_place(torch.ones(2).as_subclass(Empty)) is None


def test_a_module_can_be_pickled_without_its_buffers() -> None:
    module = nn.BatchNorm1d(2)
    module.__setstate__(private.without_buffers(vars(module)))
    assert not dict(module.named_buffers()), "torch.nn.Module._buffers"
