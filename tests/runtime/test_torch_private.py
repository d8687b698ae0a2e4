"""Private names of torch: each still does what `torch_private` uses it for."""

from __future__ import annotations

import pickle

import torch
from torch import Tensor, nn

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


def test_hooks_of_a_module_are_known() -> None:
    module = nn.Linear(1, 1)
    assert not private.has_pre_hooks(module)
    assert not list(private.forward_hooks(module))
    module.register_forward_pre_hook(hook := lambda *_: None)
    assert private.has_pre_hooks(module), "torch.nn.Module._forward_pre_hooks"
    module.register_forward_hook(hook)
    assert list(private.forward_hooks(module)) == [hook], "torch.nn.Module._forward_hooks"
