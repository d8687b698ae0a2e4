"""Scores of weights, each against its definition worked out another way."""

import pytest
import torch
from torch import Tensor

from aerogel.errors import PruningError
from aerogel.training.score import Memory, all_scores, score
from aerogel.training.scores import obs, platon


def matrices(steps: int = 6, shape: tuple[int, int] = (5, 19)) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    weight[0, :4] = 0
    return weight, [torch.randn(shape, generator=generator) for _ in range(steps)]


def observed(name: str) -> tuple[Tensor, list[Tensor], Tensor]:
    weight, gradients = matrices()
    memory: Memory = {}
    observe = score(name).observe
    assert observe
    for gradient in gradients:
        observe(weight, gradient, memory)
    return weight, gradients, score(name).score(weight, memory)


def test_the_four_scores_are_found() -> None:
    assert set(all_scores()) == {"magnitude", "movement", "platon", "obs"}
    with pytest.raises(PruningError, match="unknown score 'momentum': did you mean movement"):
        score("momentum")


@pytest.mark.parametrize("name", ["magnitude", "movement", "platon", "obs"])
def test_scores_are_finite_and_nothing_changes_weights_or_gradients(name: str) -> None:
    weight, gradients = matrices()
    before, memory = weight.clone(), {}
    kept = [gradient.clone() for gradient in gradients]
    for gradient in gradients:
        if observe := score(name).observe:
            observe(weight, gradient, memory)
    found = score(name).score(weight, memory)
    assert found.shape == weight.shape
    assert torch.isfinite(found).all()
    assert torch.equal(weight, before)
    assert all(torch.equal(gradient, was) for gradient, was in zip(gradients, kept, strict=True))


def test_movement_sums_weight_times_descent() -> None:
    weight, gradients, found = observed("movement")
    torch.testing.assert_close(found, -weight * sum(gradients))


def test_platon_is_smoothed_sensitivity_times_smoothed_uncertainty() -> None:
    weight, gradients, found = observed("platon")
    mean = doubt = torch.zeros(())
    for gradient in gradients:
        sensitivity = (weight[2, 3] * gradient[2, 3]).abs()
        mean = platon.BETA_1 * mean + (1 - platon.BETA_1) * sensitivity
        doubt = platon.BETA_2 * doubt + (1 - platon.BETA_2) * (sensitivity - mean).abs()
    torch.testing.assert_close(found[2, 3], mean * doubt)


def test_obs_is_what_the_quadratic_model_gains_when_the_rest_of_the_block_makes_up() -> None:
    weight, gradients, found = observed("obs")
    row, first = 3, 8  # the second block of a row
    block = slice(first, first + obs.BLOCK)
    fisher = torch.zeros(obs.BLOCK, obs.BLOCK, dtype=torch.float64)
    diagonals = torch.zeros(5, 24, dtype=torch.float64)  # 19 columns, filled up to whole blocks
    for gradient in gradients:
        g = gradient.double().masked_fill(weight == 0, 0)
        fisher = obs.DECAY * fisher + (1 - obs.DECAY) * torch.outer(g[row, block], g[row, block])
        diagonals[:, :19] = obs.DECAY * diagonals[:, :19] + (1 - obs.DECAY) * g.square()
    fisher += obs.DAMPING * diagonals.mean() * torch.eye(obs.BLOCK)
    # minimise d F d / 2 with d_q = -w_q: fix that entry and solve for the others
    w, place = weight[row, block].double(), 2
    others = [other for other in range(obs.BLOCK) if other != place]
    change = torch.zeros(obs.BLOCK, dtype=torch.float64)
    change[place] = -w[place]
    change[others] = torch.linalg.solve(fisher[others][:, others], -fisher[others, place] * change[place])
    torch.testing.assert_close(found[row, first + place].double(), change @ fisher @ change / 2, rtol=1e-3, atol=1e-7)
