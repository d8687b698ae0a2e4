"""Weight statistics agree with numpy and scipy."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from torch import nn

from aerogel.analysis import WeightReport, WeightStatistics, inspect
from aerogel.analysis.plot import heat_map
from aerogel.analysis.weights import BINS, QUANTILES, REACH
from aerogel.errors import ModelError
from aerogel.models import load_model, prunable_weights
from aerogel.pruning import prune
from builders import ARCHITECTURES


def one_matrix(values: np.ndarray) -> nn.Module:
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Linear(*reversed(values.shape), bias=False)])
    with torch.no_grad():
        model.blocks[0].weight.copy_(torch.from_numpy(values))
    return model


def values_of(model: nn.Module, name: str | None = None) -> np.ndarray:
    """All prunable weights in one array, or those of the matrix, layer or kind of that name."""
    parts = [
        weight.matrix.numpy().ravel()
        for weight in prunable_weights(model)
        if name in (None, weight.name, weight.layer, weight.kind)
    ]
    return np.concatenate(parts).astype(np.float64)


def assert_described(statistics: WeightStatistics, values: np.ndarray, span: tuple[float, float]) -> None:
    assert statistics.count == len(values)
    assert statistics.mean == pytest.approx(values.mean(), abs=1e-9)
    assert statistics.std == pytest.approx(values.std(), rel=1e-6)
    assert statistics.kurtosis == pytest.approx(stats.kurtosis(values), rel=1e-5, abs=1e-5)
    assert statistics.zeros == np.mean(values == 0)
    assert statistics.below_1e_3 == np.mean(np.abs(values).astype(np.float32) < np.float32(1e-3))
    assert statistics.below_1e_2 == np.mean(np.abs(values).astype(np.float32) < np.float32(1e-2))
    for share, quantile in zip(QUANTILES, statistics.quantiles, strict=True):
        assert quantile == pytest.approx(np.quantile(np.abs(values), share, method="inverted_cdf"), rel=2e-3), share
    assert len(statistics.histogram) == BINS
    assert sum(statistics.histogram) == np.count_nonzero(values)
    expected, _ = np.histogram(np.clip(values[values != 0], *span), BINS, span)
    # weights within 0.1% of an edge may be in the next bin, so cumulative counts differ slightly
    assert np.abs(np.cumsum(expected) - np.cumsum(statistics.histogram)).max() <= max(2, 0.005 * len(values))


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
@pytest.mark.parametrize("sparsity", [0, 0.6])
def test_a_report_agrees_with_numpy(name: str, sparsity: float) -> None:
    model = load_model(name)
    if sparsity:
        prune(model, sparsity=sparsity, scope="global")
    report = inspect(model, name)
    values = values_of(model)
    assert report.model == name
    assert report.prunable == report.whole.count == len(values)
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert report.sparsity == report.whole.zeros == np.mean(values == 0)
    assert report.model_sparsity == np.sum(values == 0) / report.parameters
    assert report.sparsity == pytest.approx(sparsity, abs=1e-3)
    assert report.span[1] == -report.span[0] == pytest.approx(np.quantile(np.abs(values), REACH), rel=2e-3)
    assert_described(report.whole, values, report.span)
    for groups in (report.layers, report.kinds, report.matrices):
        assert sum(group.count for group in groups) == len(values)
        assert np.array_equal(np.sum([group.histogram for group in groups], axis=0), report.whole.histogram)
        for group in groups[:: max(1, len(groups) // 4)]:
            assert_described(group, values_of(model, group.name), report.span)


@pytest.mark.parametrize(
    "draw",
    [
        lambda source: source.normal(0, 0.02, (300, 400)),
        lambda source: source.normal(0.02, 0.02, (300, 400)),
        lambda source: source.laplace(0, 1e-4, (300, 400)),
        lambda source: source.uniform(-1e-3, 2e3, (300, 400)),
        lambda source: source.standard_t(3, (300, 400)) * 1e-6,
        lambda source: source.normal(0, 1, (300, 400)) * (source.random((300, 400)) < 0.05),
    ],
)
def test_any_distribution(draw: object) -> None:
    model = one_matrix(draw(np.random.default_rng(0)).astype(np.float32))  # type: ignore[operator]
    report = inspect(model)
    assert_described(report.whole, values_of(model), report.span)


FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@settings(max_examples=60)
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=FLOATS))
def test_few_weights(values: np.ndarray) -> None:
    report = inspect(one_matrix(values))
    statistics, flat = report.whole, values.astype(np.float64).ravel()
    scale = np.abs(flat).max()
    assert statistics.count == flat.size
    assert statistics.mean == pytest.approx(flat.mean(), abs=1e-9 * scale)
    assert statistics.std == pytest.approx(flat.std(), abs=1e-6 * scale)
    assert sum(statistics.histogram) == np.count_nonzero(flat)
    for share, quantile in zip(QUANTILES, statistics.quantiles, strict=True):
        assert quantile == pytest.approx(np.quantile(np.abs(flat), share, method="inverted_cdf"), rel=2e-3)
    if flat.std() > 2e-3 * scale:
        assert statistics.kurtosis == pytest.approx(stats.kurtosis(flat), rel=1e-2, abs=1e-2)
    else:
        assert -3 < statistics.kurtosis < flat.size


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e-5, 7e-9, 12345.678])
def test_constant_weights(value: float) -> None:
    report = inspect(one_matrix(np.full((100, 100), value, np.float32)))
    assert report.whole.std == pytest.approx(0, abs=1e-6 * abs(value))
    assert report.whole.kurtosis == 0
    assert report.sparsity == (value == 0)
    assert sum(report.whole.histogram) == (10_000 if value else 0)
    assert report.span[0] < 0 < report.span[1]


def test_groups_are_the_models_layers_and_kinds() -> None:
    model = ARCHITECTURES["gpt2"].build()
    report = inspect(model)
    assert [group.name for group in report.layers] == ["transformer.h.0", "transformer.h.1"]
    assert [group.name for group in report.kinds] == ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert {group.name for group in report.matrices} == ARCHITECTURES["gpt2"].weights
    assert report.model == "GPT2LMHeadModel"


def test_targets_add_weights() -> None:
    model = ARCHITECTURES["gpt2"].build()
    blocks, both = inspect(model), inspect(model, targets=("blocks", "embeddings"))
    assert both.prunable - blocks.prunable == 8000 * 32 + 64 * 32  # the tied head counts once
    assert blocks.parameters == both.parameters
    assert {"transformer.wte", "transformer.wpe"} < {group.name for group in both.matrices}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(kind: torch.dtype) -> None:
    model = ARCHITECTURES["bert"].build().to(kind)
    values = np.concatenate([weight.matrix.float().numpy().ravel() for weight in prunable_weights(model)])
    report = inspect(model)
    assert_described(report.whole, values.astype(np.float64), report.span)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_error_for_a_weight_that_is_not_finite_names_its_layer(value: float) -> None:
    model = ARCHITECTURES["bart"].build()
    third = prunable_weights(model)[2]
    with torch.no_grad():
        third.matrix[0, 0] = value
    with pytest.raises(ModelError, match=f"layer {third.name} .*finite"):
        inspect(model)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match="prunable"):
        inspect(nn.Sequential(nn.Linear(4, 4)))


def test_the_dictionary_is_json() -> None:
    report = inspect(ARCHITECTURES["bert"].build(), "bert")
    written = json.dumps(report.to_dict(), allow_nan=False)
    values = json.loads(written)
    assert values["whole"]["count"] == report.prunable
    assert values["layers"][0]["histogram"] == list(report.layers[0].histogram)
    assert values.keys() == WeightReport.__dataclass_fields__.keys()


def test_a_heat_map_takes_any_values(tmp_path: Path) -> None:
    values = (math.nan, math.inf, 0.0, -1.0, 1e308)
    drawn = heat_map([("a", values), ("b", values)], (0.1, 0.3, 0.5, 0.7, 0.9), "any", split=1)
    drawn.savefig(tmp_path / "map.svg")
    assert "nan" in (tmp_path / "map.svg").read_text()


def test_notebooks_show_a_table_of_the_groups() -> None:
    report = inspect(ARCHITECTURES["gpt2"].build())
    html = report._repr_html_()
    assert html.count("<tr>") == 2 + len(report.layers) + len(report.kinds)
    assert all(f"<td>{group.name}</td>" in html for group in (report.whole, *report.layers, *report.kinds))
    assert f"{report.prunable:,}" in html
