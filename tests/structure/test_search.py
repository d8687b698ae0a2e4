"""Allocation within a budget: as good as brute force, never above the budget, and refined by a function."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

from aerogel.errors import PruningError
from aerogel.structure.search import Choice, allocate, refine


def random_choices(seed: int, number: int, levels: int) -> list[Choice]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Choice(
            range(levels),
            torch.rand(levels, generator=generator, dtype=torch.float64).sort(descending=True).values,
            torch.rand(levels, generator=generator, dtype=torch.float64).sort().values,
        )
        for _ in range(number)
    ]


def totals(choices: list[Choice], levels: list[int]) -> tuple[float, float]:
    pairs = list(zip(choices, levels, strict=True))
    return sum(float(c.errors[i]) for c, i in pairs), sum(float(c.costs[i]) for c, i in pairs)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.2, 1.0))
def test_it_is_as_good_as_brute_force(seed: int, share: float) -> None:
    choices = random_choices(seed, 4, 5)
    least = sum(float(choice.costs[0]) for choice in choices)
    most = sum(float(choice.costs[-1]) for choice in choices)
    budget = least + share * (most - least)
    every = (totals(choices, list(levels)) for levels in itertools.product(range(5), repeat=4))
    best = min(error for error, cost in every if cost <= budget * (1 + 1e-12))
    error, cost = totals(choices, allocate(choices, budget))
    assert error == pytest.approx(best)
    assert cost <= budget * (1 + 1e-9)


def test_many_sub_layers_stay_within_the_budget_and_use_it() -> None:
    choices = random_choices(0, 60, 49)
    for budget in (10.0, 20.0, 40.0):
        _, cost = totals(choices, allocate(choices, budget))
        assert 0.995 * budget < cost <= budget * (1 + 1e-9)


def test_equal_units_fill_a_budget_exactly() -> None:
    units = Choice(range(4), torch.tensor([9.0, 4.0, 1.0, 0.0]), torch.arange(4, dtype=torch.float64) / 3)
    assert sum(allocate([units] * 3, 2.0)) == 6


def test_a_budget_below_the_least_is_refused() -> None:
    with pytest.raises(PruningError, match=r"0\.1"):
        allocate([Choice([1, 2], torch.ones(2), torch.ones(2))], 0.1)


def test_scales_move_the_budget_to_the_sub_layers_that_matter() -> None:
    units = Choice(range(11), torch.arange(10, -1, -1).double() ** 2, torch.arange(11).double())
    assert allocate([units, units], 10) == [5, 5]
    first, second = allocate([units, units], 10, [4.0, 1.0])
    assert first > second


def test_refining_lowers_the_function_within_the_budget_and_repeats() -> None:
    choices = random_choices(1, 6, 12)
    budget = 3.0
    weights = [10.0, 0.1, 1.0, 5.0, 0.2, 1.0]

    def kl(levels: list[int]) -> float:
        assert totals(choices, levels)[1] <= budget * (1 + 1e-9)
        pairs = zip(weights, choices, levels, strict=True)
        return sum(weight * float(choice.errors[level]) for weight, choice, level in pairs)

    scales = refine(choices, budget, kl, seed=0)
    assert kl(allocate(choices, budget, scales)) < kl(allocate(choices, budget))
    assert refine(choices, budget, kl, seed=0) == scales
