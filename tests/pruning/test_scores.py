"""Scores of weights, each against its definition worked out another way."""

import pytest
import torch
from torch import Tensor

from aerogel.errors import PruningError
from aerogel.pruning import METHODS, SCORES, ScoreState, Statistics, all_methods, method, prune
from aerogel.pruning.scores import obs, platon
from builders import ARCHITECTURES

TRAINED = [name for name, entry in all_methods().items() if entry.needs == "training"]


def matrices(steps: int = 6, shape: tuple[int, int] = (5, 19)) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    weight[0, :4] = 0
    return weight, [torch.randn(shape, generator=generator) for _ in range(steps)]


def observed(name: str) -> tuple[Tensor, list[Tensor], Tensor]:
    weight, gradients = matrices()
    state: ScoreState = {}
    observe = method(name).observe
    assert observe
    for gradient in gradients:
        observe(weight, gradient, state)
    return weight, gradients, method(name).score(weight, Statistics(torch.Generator(), state=state))


def test_scores_and_methods_are_one_registry() -> None:
    assert set(SCORES) == set(all_methods()) == {*METHODS, *TRAINED}
    assert set(TRAINED) == {"movement", "platon", "obs"}
    assert not set(TRAINED) & set(METHODS)
    assert all((entry.observe is None) == (name in METHODS) for name, entry in all_methods().items())
    with pytest.raises(PruningError, match=r"'momentum'.* movement"):
        method("momentum")


@pytest.mark.parametrize("name", TRAINED)
def test_a_score_of_training_does_not_prune_in_one_shot(name: str) -> None:
    model = ARCHITECTURES["bert"].build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(PruningError, match=f"aerogel finetune --score {name}"):
        prune(model, method=name, sparsity=0.5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", TRAINED)
def test_scores_are_finite_and_change_neither_weights_nor_gradients(name: str) -> None:
    weight, gradients, scores = observed(name)
    assert scores.shape == weight.shape
    assert torch.isfinite(scores).all()
    original, originals = matrices()
    assert torch.equal(weight, original)
    assert all(map(torch.equal, gradients, originals))


def test_movement_sums_weight_times_descent() -> None:
    weight, gradients, scores = observed("movement")
    torch.testing.assert_close(scores, -weight * sum(gradients))


def test_platon_is_smoothed_sensitivity_times_smoothed_uncertainty() -> None:
    weight, gradients, scores = observed("platon")
    mean = doubt = torch.zeros(())
    for gradient in gradients:
        sensitivity = (weight[2, 3] * gradient[2, 3]).abs()
        mean = platon.BETA_1 * mean + (1 - platon.BETA_1) * sensitivity
        doubt = platon.BETA_2 * doubt + (1 - platon.BETA_2) * (sensitivity - mean).abs()
    torch.testing.assert_close(scores[2, 3], mean * doubt)


def test_obs_is_what_the_quadratic_model_gains_when_the_rest_of_the_block_makes_up() -> None:
    weight, gradients, scores = observed("obs")
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
    torch.testing.assert_close(scores[row, first + place].double(), change @ fisher @ change / 2, rtol=1e-3, atol=1e-7)
