"""The registry finds every method and score; methods keep exact counts and compute their formulas."""

import importlib
import logging
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

import aerogel.pruning
from aerogel.errors import PruningError
from aerogel.pruning import METHODS, SCORES, Pattern, Statistics, all_methods, method
from aerogel.pruning.least_squares import damped, inverse, refit

FILES, SCORE_FILES = (importlib.import_module(f"aerogel.pruning.{folder}") for folder in ("methods", "scores"))
CALIBRATED = [name for name in METHODS if method(name).looks_at_text]


def problem(rows: int = 24, columns: int = 32, seed: int = 0) -> tuple[Tensor, Statistics]:
    """A random matrix and correlated inputs, some of them always zero."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw)
    mixing = torch.randn(columns, columns, generator=draw) * torch.rand(columns, generator=draw)
    inputs = torch.randn(200, columns, generator=draw) @ mixing
    inputs[:, 5] = 0
    hessian = inputs.T @ inputs
    gradients = torch.rand(rows, generator=draw)
    return weight, Statistics(torch.Generator().manual_seed(seed), hessian.diagonal().sqrt(), hessian, gradients)


def error(target: Tensor, weight: Tensor, hessian: Tensor) -> float:
    """‖X (target − weight)ᵀ‖²_F."""
    difference = target - weight
    return float(((difference @ hessian) * difference).sum())


def test_every_file_is_a_method_that_describes_itself() -> None:
    names = [entry.name for package in (FILES, SCORE_FILES) for entry in pkgutil.iter_modules(package.__path__)]
    assert sorted(names) == sorted(all_methods()) == list(SCORES)
    assert set(METHODS) >= {"magnitude", "wanda", "ria", "sparsegpt", "admm", "best"}
    for name, entry in all_methods().items():
        assert method(name) is entry
        assert entry.name == name
        assert entry.description
        assert any(character.isdigit() for character in entry.paper)  # the year
        if entry.looks_at_text:
            assert ("output row" if entry.scope == "row" else "matrix") in entry.description


def test_names_are_listed_without_torch() -> None:
    listing = (
        "import sys, aerogel.pruning as p; print(p.METHODS, p.SCORES, p.SCOPES, p.ALLOCATIONS, 'torch' in sys.modules)"
    )
    listed = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout
    assert listed.split()[-1] == "False"
    assert all(f"'{name}'" in listed for name in (*SCORES, "row", "owl"))


def test_another_file_is_another_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smallest.py").write_text(
        "from aerogel.pruning import ranking\n"
        "METHOD = ranking('smallest', lambda weight, _: -weight.abs(), 'nothing', 'keeps the smallest', '2026')\n"
    )
    monkeypatch.setattr(FILES, "__path__", [*FILES.__path__, str(tmp_path)])
    all_methods.cache_clear()
    try:
        weight = torch.tensor([[3.0, -1.0], [2.0, 4.0]])
        statistics = Statistics(torch.Generator())
        mask, values = method("smallest").prune(weight, statistics, Pattern.parse("unstructured"), 0.5)
        assert mask.tolist() == [[False, True], [True, False]]
        assert torch.equal(values, weight)
    finally:
        monkeypatch.undo()
        all_methods.cache_clear()
    assert "smallest" not in all_methods()


def test_no_module_hides_a_public_name() -> None:
    """The import of a submodule sets an attribute of the package, which lazy names would not replace."""
    modules = {entry.name for entry in pkgutil.iter_modules(aerogel.pruning.__path__)}
    assert not modules & set(aerogel.pruning.__all__)


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(PruningError, match=r"'magnitud'.* magnitude"):
        method("magnitud")
    with pytest.raises(PruningError, match=r"'xyz'.* admm, best, magnitude, random, ria"):
        method("xyz")


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_method_without_its_statistics_says_what_it_needs(name: str) -> None:
    with pytest.raises(PruningError, match="calibration text"):
        method(name).prune(torch.ones(4, 4), Statistics(torch.Generator()), Pattern.parse("2:4"), 0.5)


# counts


@pytest.mark.parametrize("name", METHODS)
@given(
    st.sampled_from(["unstructured", "2:4", "1:8", "block:2x1", "block:1x4", "block:4x2"]),
    st.booleans(),
    st.floats(0, 0.99),
    st.sampled_from([(8, 16), (24, 32), (4, 136)]),
)
def test_counts_are_exact_whatever_the_pattern(
    name: str, text: str, per_row: bool, sparsity: float, shape: tuple[int, int]
) -> None:
    weight, statistics = problem(*shape)
    pattern = Pattern.parse(text)
    if per_row:
        pattern = pattern.within_rows()
    sparsity = pattern.fixed_sparsity if pattern.fixed_sparsity is not None else sparsity
    mask, values = method(name).prune(weight, statistics, pattern, sparsity)
    assert mask.shape == values.shape == weight.shape
    assert torch.isfinite(values).all()
    units = pattern.units(mask.float())
    assert set((units / (pattern.rows * pattern.columns)).unique().tolist()) <= {0.0, 1.0}
    dropped = units == 0
    if pattern.group:
        assert (dropped.view(-1, pattern.group).sum(1) == pattern.group - pattern.kept).all()
    elif per_row:
        assert (dropped.sum(1) == round(sparsity * units.shape[1])).all()
    else:
        assert dropped.sum() == round(sparsity * units.numel())


@pytest.mark.parametrize("name", METHODS)
def test_the_same_statistics_give_the_same_bits(name: str) -> None:
    pattern = Pattern.parse("unstructured")
    first, second = (method(name).prune(*problem(), pattern, 0.5) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_at_no_sparsity_the_outputs_stay() -> None:
    weight, statistics = problem()
    for name in METHODS:
        mask, values = method(name).prune(weight, statistics, Pattern.parse("unstructured"), 0.0)
        assert mask.all()
        hessian = statistics.input_hessian()
        assert error(weight, values, hessian) < 1e-4 * error(weight, torch.zeros_like(weight), hessian)


# formulas


def test_wanda_and_ria_are_their_formulas() -> None:
    weight, statistics = problem(3, 8)
    norms = statistics.input_norms()
    wanda, ria = method("wanda").score(weight, statistics), method("ria").score(weight, statistics)
    for i in range(3):
        for j in range(8):
            size = abs(float(weight[i, j]))
            assert float(wanda[i, j]) == pytest.approx(size * float(norms[j]), rel=1e-5)
            relative = size / float(weight[:, j].abs().sum()) + size / float(weight[i].abs().sum())
            assert float(ria[i, j]) == pytest.approx(relative * float(norms[j]) ** 0.5, rel=1e-5)
    assert method("wanda").scope == "row"


def test_sparsegpt_of_one_row_is_the_optimal_brain_surgeon_from_left_to_right() -> None:
    weight, statistics = problem(1, 8)
    mask, values = method("sparsegpt").prune(weight, statistics, Pattern.parse("unstructured"), 0.5)
    hessian = damped(statistics.input_hessian(), 0.01).double()
    row = weight[0].double().masked_fill(statistics.input_hessian().diagonal() == 0, 0)
    for column in range(8):  # the weights to the right compensate for each dropped one, by the exact inverse
        if not mask[0, column]:
            rest = torch.linalg.inv(hessian[column:, column:])
            row[column:] = row[column:] - row[column] / rest[0, 0] * rest[0]
    torch.testing.assert_close(values[0].masked_fill(~mask[0], 0).double(), row * mask[0], rtol=1e-3, atol=1e-4)


def test_the_refit_is_least_squares_on_the_support() -> None:
    weight, statistics = problem()
    hessian = damped(statistics.input_hessian(), 0.01)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    solution = refit(weight, torch.zeros_like(weight), mask, hessian, 60)
    assert not solution[~mask].any()
    for row, keep, values in zip(weight.double(), mask, solution.double(), strict=True):
        exact = torch.linalg.solve(hessian.double()[keep][:, keep], (row @ hessian.double())[keep])
        torch.testing.assert_close(values[keep], exact, rtol=1e-2, atol=1e-2)


def test_more_work_leaves_less_error() -> None:
    weight, statistics = problem(64, 64)
    pattern = Pattern.parse("unstructured")
    errors = {}
    for name in ("random", "magnitude", "sparsegpt", "admm"):
        mask, values = method(name).prune(weight, statistics, pattern, 0.6)
        errors[name] = error(weight, values.masked_fill(~mask, 0), statistics.input_hessian())
    assert errors["random"] > errors["magnitude"] > errors["sparsegpt"] > errors["admm"]


def test_best_is_admm_for_equal_gradients_and_else_keeps_more_in_rows_with_larger_ones() -> None:
    weight, statistics = problem()
    pattern = Pattern.parse("unstructured")
    equal = Statistics(statistics.generator, statistics.norms, statistics.hessian, torch.full((24,), 0.3))
    mask, values = method("best").prune(weight, equal, pattern, 0.6)
    expected, solved = method("admm").prune(weight, statistics, pattern, 0.6)
    assert torch.equal(mask, expected)
    torch.testing.assert_close(values, solved)
    tilted = torch.cat([torch.full((12,), 4.0), torch.full((12,), 1.0)])
    mask, _ = method("best").prune(
        weight, Statistics(statistics.generator, statistics.norms, statistics.hessian, tilted), pattern, 0.6
    )
    assert mask[:12].sum() > 1.2 * mask[12:].sum()


def test_a_singular_hessian_is_damped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    twins = torch.randn(100, 4, generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    hessian = twins.T @ twins
    with caplog.at_level(logging.WARNING):
        result = inverse(hessian, 0.0)
    assert torch.isfinite(result).all()
    assert "Hessian of 8 inputs" in caplog.text
    caplog.clear()
    inverse(hessian, 0.01)
    assert not caplog.text
