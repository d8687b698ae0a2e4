"""Calibrated rounding to int8: on the grid, on the support, with less error than the nearest integers."""

from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from aerogel.errors import ModelError, PruningError
from aerogel.models import load, load_tokenizer, prunable_weights
from aerogel.models.int8 import quantize_rows, quantize_tokens, round_to_grid
from aerogel.models.logits import kl_divergence, prediction_logits
from aerogel.pruning import Calibration, PruneConfig, prune
from aerogel.pruning.rounding import round_on_support
from aerogel.tasks import load_task
from aerogel.training import GradualPruning

MANUAL = load_task("python-reference")


def manual(name: str, samples: int = 8) -> Calibration:
    return Calibration(MANUAL, load_tokenizer(name), samples, 128)


def problem(rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(300, columns, generator=draw) @ torch.randn(columns, columns, generator=draw)
    kept = torch.rand(rows, columns, generator=draw) < 0.5
    return torch.randn(rows, columns, generator=draw) * kept, inputs.T @ inputs


def error(target: Tensor, weight: Tensor, hessian: Tensor) -> float:
    """‖X (target − weight)ᵀ‖²_F."""
    difference = target - weight
    return float(((difference @ hessian) * difference).sum())


@given(st.sampled_from([1, 5, 128, 150]), st.integers(0, 100))
def test_the_error_is_lower_on_the_same_grid_and_support(columns: int, seed: int) -> None:
    weight, hessian = problem(16, columns, seed)
    rounded = round_on_support(weight, hessian)
    integers, scales = quantize_rows(weight)
    again, same_scales = quantize_rows(rounded)
    torch.testing.assert_close(same_scales, scales)
    torch.testing.assert_close(rounded, again * scales[:, None])
    assert torch.equal(again[integers.abs() == 127], integers[integers.abs() == 127])
    assert not rounded[weight == 0].any()
    nearest = error(weight, round_to_grid(weight), hessian)
    assert error(weight, rounded, hessian) <= 1.01 * nearest  # the damping allows a little more
    if columns > 100:
        assert error(weight, rounded, hessian) < 0.8 * nearest


def test_inputs_and_rows_of_zeros_have_the_nearest_integers() -> None:
    weight, hessian = problem(8, 12, 0)
    weight[3] = 0
    rounded = round_on_support(weight, torch.zeros_like(hessian))
    torch.testing.assert_close(rounded, round_to_grid(weight))
    hessian[5] = hessian[:, 5] = 0
    torch.testing.assert_close(round_on_support(weight, hessian)[:, 5], round_to_grid(weight)[:, 5])


def kl(model: nn.Module, reference: nn.Module, name: str, inputs: bool = True) -> float:
    """KL(reference ‖ model with int8 weights, and inputs), in nats a prediction, on other text."""
    batch = Calibration(MANUAL, load_tokenizer(name), 8, 128, seed=1).batches(model)[0]
    handles = []
    with torch.no_grad():
        for weight in prunable_weights(model):
            weight.matrix.copy_(round_to_grid(weight.matrix))
            if inputs:
                handles.append(
                    weight.module.register_forward_pre_hook(lambda module, x: (quantize_tokens(x[0]), *x[1:]))
                )
        divergence = kl_divergence(prediction_logits(reference, batch), prediction_logits(model, batch))
    for handle in handles:
        handle.remove()
    return float(divergence.mean())


@pytest.mark.parametrize(
    ("name", "method"), [("tiny-bert", "magnitude"), ("tiny-gpt2", "best"), ("tiny-bart", "magnitude")]
)
def test_a_model_loses_less_than_with_the_nearest_integers(name: str, method: str) -> None:
    pruned, nearest, model = (load(name)[0] for _ in range(3))
    settings: dict[str, Any] = dict(method=method, sparsity=0.5, calibration=manual(name))
    expected = prune(pruned, **settings)
    nearest.load_state_dict(pruned.state_dict())
    masks = prune(model, values="int8", **settings)
    for weight in prunable_weights(model):
        assert torch.equal(masks[weight.name], expected[weight.name])
        assert not weight.matrix[~masks[weight.name]].any()
        torch.testing.assert_close(weight.matrix, round_to_grid(weight.matrix), atol=0, rtol=1e-6)
    assert 0 < kl(model, pruned, name) < kl(nearest, pruned, name)


def test_a_dense_model_is_rounded() -> None:
    model, nearest = load("tiny-gpt2")[0], load("tiny-gpt2")[0]
    masks = prune(model, sparsity=0.0, values="int8", calibration=manual("tiny-gpt2"))
    assert all(mask.all() for mask in masks.values())
    dense, _ = load("tiny-gpt2")
    assert 0 < kl(model, dense, "tiny-gpt2", inputs=False) < 0.7 * kl(nearest, dense, "tiny-gpt2", inputs=False)


def test_all_patterns_and_excluded_weights_are_rounded() -> None:
    for pattern in ("2:4", "block:1x4"):
        model, _ = load("tiny-gpt2")
        settings = dict(pattern=pattern, sparsity=0.5, exclude=("*.c_proj",), values="int8")
        masks = prune(model, method="wanda", calibration=manual("tiny-gpt2", 4), **settings)
        for weight in prunable_weights(model):
            torch.testing.assert_close(weight.matrix, round_to_grid(weight.matrix), atol=0, rtol=1e-6)
            assert not weight.matrix[~masks[weight.name]].any() if weight.name in masks else weight.matrix.all(0).any()


def test_without_text_the_weights_stay_as_they_are() -> None:
    model, plain = load("tiny-gpt2")[0], load("tiny-gpt2")[0]
    prune(model, sparsity=0.5, values="int8")
    prune(plain, sparsity=0.5)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_wrong_type_dtype_or_model_is_refused_before_anything_changes() -> None:
    with pytest.raises(PruningError, match=r"'int9': .*int8"):
        PruneConfig(values="int9")
    with pytest.raises(PruningError, match="int8"):
        GradualPruning(PruneConfig(sparsity=0.5, values="int8"))
    half = load("tiny-gpt2")[0].to(torch.bfloat16)
    before = {name: value.clone() for name, value in half.state_dict().items()}
    with pytest.raises(PruningError, match=r"layer transformer\.h\.0\..*float32.* bfloat16"):
        prune(half, sparsity=0.5, values="int8", calibration=manual("tiny-gpt2", 4))
    assert all(torch.equal(value, before[name]) for name, value in half.state_dict().items())
    broken, _ = load("tiny-gpt2")
    prunable_weights(broken)[0].matrix[0, 0] = torch.nan
    with pytest.raises(PruningError, match=r"layer transformer\.h\.0\..*finite"):
        prune(broken, sparsity=0.5, exclude=("transformer.h.0.*",), values="int8", calibration=manual("tiny-gpt2", 4))
    plain = nn.Sequential(nn.ModuleList([nn.Linear(8, 8)]))
    with pytest.raises(ModelError, match="Sequential"):
        prune(plain, sparsity=0.5, values="int8", calibration=manual("tiny-gpt2", 4))
