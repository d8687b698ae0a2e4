"""Greedy removal: redundant structures first, errors that can be recomputed, and least-squares weights."""

import itertools

import pytest
import torch
from torch import Tensor

from aerogel.pruning.least_squares import damped
from aerogel.structure.removal import DAMPING, IMPORTANCE_DAMPING, Removal, compensated


def problem(structures: int, size: int, d_out: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs (tokens, d_in), weights (d_out, d_in), XᵀX, and an importance of the outputs."""
    generator = torch.Generator().manual_seed(structures * size)
    width = structures * size
    mixing = torch.randn(width, width, generator=generator)
    inputs = torch.randn(8 * width, width, generator=generator) @ mixing
    weight = torch.randn(d_out, width, generator=generator)
    gradients = torch.randn(50, d_out, generator=generator)
    return inputs, weight, inputs.T @ inputs, gradients.T @ gradients / 50


def error(weight: Tensor, values: Tensor, hessian: Tensor, importance: Tensor) -> float:
    difference, full = (weight - values).double(), damped(hessian.double(), DAMPING)
    gamma = damped(importance.double(), IMPORTANCE_DAMPING)
    return float((gamma @ difference @ full @ difference.T).trace() / 2)


@pytest.mark.parametrize(("structures", "size"), [(10, 1), (6, 4), (400, 1), (70, 4)])
def test_the_error_of_each_number_is_that_of_its_compensated_weights(structures: int, size: int) -> None:
    _, weight, hessian, importance = problem(structures, size)
    removal = Removal.of(weight, hessian, importance, size)
    assert sorted(removal.order) == list(range(structures))
    assert removal.errors[0] == 0
    assert (removal.errors.diff() >= 0).all()
    for count in (0, 1, structures // 2, structures - 1):
        values = compensated(weight, hessian, removal.kept(count), size)
        expected = error(weight, values, hessian, importance)
        assert float(removal.errors[structures - count]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_the_first_removed_is_the_best_of_all(size: int) -> None:
    _, weight, hessian, importance = problem(7, size)
    removal = Removal.of(weight, hessian, importance, size)
    rests = itertools.combinations(range(7), 6)
    errors = {rest: error(weight, compensated(weight, hessian, rest, size), hessian, importance) for rest in rests}
    assert tuple(removal.kept(6)) == min(errors, key=lambda rest: errors[rest])


def test_a_structure_without_weights_and_one_of_two_equal_ones_cost_nothing() -> None:
    _, weight, _, importance = problem(8, 2)
    inputs = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    weight[:, 2:4] = 0
    inputs[:, 10:12] = inputs[:, 14:16]
    removal = Removal.of(weight, inputs.T @ inputs, importance, 2)
    assert removal.order[0] == 1
    assert removal.order[1] in (5, 7)
    assert removal.errors[1] == 0
    assert removal.errors[2] < 0.05 * removal.errors[3]


def test_one_of_several_equal_neurons_stays() -> None:
    """Also where neurons are removed several at a time: the last of the equal ones is not redundant."""
    _, weight, _, importance = problem(300, 1)
    inputs = torch.randn(1000, 300, generator=torch.Generator().manual_seed(0))
    inputs[:, 1:20] = inputs[:, :1]
    weight[:, 20:] *= 3
    removal = Removal.of(weight, inputs.T @ inputs, importance, 1)
    assert set(removal.order[:19]) < set(range(20))
    assert removal.errors[19] < 0.2 * removal.errors[21]


def test_the_weights_are_those_of_least_squares() -> None:
    inputs, weight, hessian, _ = problem(6, 2)
    kept = [0, 2, 3, 5]
    index = torch.tensor([0, 1, 4, 5, 6, 7, 10, 11])
    values = compensated(weight, hessian, kept, 2)
    assert (values[:, [2, 3, 8, 9]] == 0).all()
    ridge = (DAMPING * hessian.diagonal().mean()).sqrt() * torch.eye(12)  # the damping as further inputs
    damped_inputs = torch.cat([inputs, ridge]).double()
    expected = torch.linalg.lstsq(damped_inputs[:, index], damped_inputs @ weight.double().T).solution.T
    torch.testing.assert_close(values[:, index].double(), expected, rtol=1e-4, atol=1e-5)


def test_outputs_without_importance_do_not_count() -> None:
    _, weight, hessian, _ = problem(8, 1)
    weight[0, 3] = 0
    importance = torch.zeros(6, 6)
    importance[0, 0] = 1e6
    weight[1:, 3] *= 0.1
    assert Removal.of(weight, hessian, importance, 1).order[0] == 3
