"""Tables of timings: of whole models, interpolated, kept by shape and measure, and measured again if damaged."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from aerogel.errors import ModelError
from aerogel.models import parameter_count
from aerogel.structure import LatencyTable, TorchMeasure, latency_table, shrink, sublayers
from aerogel.structure.empty import EmptyAttention, OutputBias
from aerogel.structure.latency import group
from builders import ARCHITECTURES


@dataclass
class CountParameters:
    """A deterministic measure: a parameter takes a microsecond."""

    name: str = "parameters"
    calls: list[int] = field(default_factory=list)

    def __call__(self, model: PreTrainedModel) -> float:
        self.calls.append(parameter_count(model))
        return self.calls[-1] * 1e-6


def unnamed(model: PreTrainedModel) -> float:
    return parameter_count(model) * 1e-6


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "bart"])
def test_the_table_predicts_the_seconds_of_whole_models(name: str) -> None:
    model = ARCHITECTURES[name].build()
    before = copy.deepcopy(model.state_dict())
    table = latency_table(model, unnamed)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    found = sublayers(model)
    assert set(table.seconds) == {group(sublayer) for sublayer in found}
    kept = {sublayer.name: range(max(1, sublayer.count // 2)) for sublayer in found}
    saved = sum(table.of(s, s.count) - table.of(s, len(kept[s.name])) for s in found)
    shrink(model, kept)
    assert table.dense - saved == pytest.approx(unnamed(model), rel=1e-3)


def test_seconds_are_interpolated_and_never_fall_with_more_structures() -> None:
    [attention, feed_forward, *_] = sublayers(ARCHITECTURES["bert"].build())
    points = {group(attention): [(0, 0.0), (2, 1.0)], group(feed_forward): [(0, 0.0), (16, 2.0), (64, 8.0)]}
    table = LatencyTable(20.0, points)
    assert table.of(attention, 1) == 0.5
    assert [table.of(feed_forward, count) for count in (0, 8, 16, 40, 64)] == [0, 1, 2, 5, 8]


def test_empty_sublayers_that_are_slower_count_as_those_with_a_few_structures() -> None:
    """As in aerogel's runtime, which fuses no block with an empty sub-layer in most families."""

    def slower_if_empty(model: PreTrainedModel) -> float:
        is_empty = any(isinstance(module, EmptyAttention | OutputBias) for module in model.modules())
        return unnamed(model) + 10.0 * is_empty

    model = ARCHITECTURES["bert"].build()
    table, slower = latency_table(model, unnamed), latency_table(model, slower_if_empty)
    for sublayer in sublayers(model):
        few, half = (max(1, round(share * sublayer.count)) for share in (0.25, 0.5))
        assert slower.of(sublayer, 0) == slower.of(sublayer, few) > 0
        for count in (half, sublayer.count):
            gained = (of.of(sublayer, count) - of.of(sublayer, few) for of in (table, slower))
            assert next(gained) == pytest.approx(next(gained))


def test_a_named_measure_is_called_once_for_a_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEROGEL_HOME", str(tmp_path))
    model, measure = ARCHITECTURES["gpt2"].build(), CountParameters()
    table = latency_table(model, measure)
    count = len(measure.calls)
    assert latency_table(ARCHITECTURES["gpt2"].build(seed=1), measure) == table
    assert len(measure.calls) == count
    latency_table(model, CountParameters("other"))
    assert len(list((tmp_path / "latency").iterdir())) == 2
    shrink(model, {sublayers(model)[0].name: [1]})
    latency_table(model, measure)
    assert len(measure.calls) > count


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"dense": "x", "seconds": {}}', '{"dense": 1, "seconds": {}}']
)
def test_a_damaged_table_is_measured_again(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEROGEL_HOME", str(tmp_path))
    model, measure = ARCHITECTURES["gpt2"].build(), CountParameters()
    table = latency_table(model, measure)
    [path] = (tmp_path / "latency").iterdir()
    path.write_text(content)
    assert latency_table(model, measure) == table


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "t5"])
def test_the_default_measure_runs_text_models(name: str) -> None:
    model = ARCHITECTURES[name].build()
    assert TorchMeasure(batch_size=2, length=8, repeats=1)(model) > 0


def test_the_default_measure_refuses_other_inputs() -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32)
    with pytest.raises(ModelError, match=r"ViTModel.*pixel_values"):
        TorchMeasure()(ViTModel(config))
