"""Structured pruning from the target to the small model: targets are met, and quality is above that of magnitude."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from transformers import PreTrainedModel

from aerogel.errors import ModelError, PruningError
from aerogel.models import load, load_tokenizer, parameter_count
from aerogel.pruning import Calibration
from aerogel.pruning.kl import Reference
from aerogel.structure import Structure, StructureConfig, prune_structure, read_plan, shrink, sublayers
from aerogel.tasks import load_task
from builders import ARCHITECTURES, prose, text_data

MANUAL, REVIEWS = load_task("python-reference"), load_task("movie-reviews")
SMALL = 200  # sentences of calibration text for models of random weights


def structure_parameters(model: PreTrainedModel) -> int:
    return sum(sublayer.parameters * sublayer.count for sublayer in sublayers(model))


def seconds(model: PreTrainedModel) -> float:
    """A deterministic measure: a parameter of heads and neurons takes a microsecond, the rest 5 milliseconds."""
    return 0.005 + structure_parameters(model) * 1e-6


def built(name: str) -> tuple[PreTrainedModel, Calibration]:
    tokenizer = load_tokenizer("tiny-gpt2" if name in ("gpt2", "llama") else "tiny-bart")
    return ARCHITECTURES[name].build(), Calibration(text_data(prose(SMALL)), tokenizer, 4, 32)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "bart", "t5"])
def test_every_target_is_met_in_every_kind_of_model(name: str, tmp_path: Path) -> None:
    dense, text = built(name)
    total, structures = parameter_count(dense), structure_parameters(dense)

    def pruned(config: StructureConfig) -> tuple[PreTrainedModel, Structure]:
        model = copy.deepcopy(dense)
        return model, prune_structure(model, config, text, seconds)

    model, structure = pruned(StructureConfig(sparsity=0.5))
    assert 0.4 * structures < structure_parameters(model) <= 0.5 * structures
    assert structure.speedup is None
    most = total - structures // 3
    model, structure = pruned(StructureConfig(parameters=most))
    assert most - structures // 12 < parameter_count(model) <= most
    model, structure = pruned(StructureConfig(size=4 * most))
    save_model(model, str(tmp_path / "model.safetensors"))
    assert (tmp_path / "model.safetensors").stat().st_size <= 4 * most
    model, structure = pruned(StructureConfig(speedup=1.5))
    assert structure.speedup is not None
    assert structure.speedup == pytest.approx(seconds(dense) / seconds(model))
    assert structure.speedup >= 1.5
    assert structure.table is not None
    assert structure.table.dense == pytest.approx(seconds(dense))
    assert [entry.kept for entry in structure.removed if entry.kept] == [s.count for s in sublayers(model)]


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_it_is_closer_to_the_dense_model_than_by_magnitude(name: str) -> None:
    model, tokenizer = load(name)
    text = Calibration(MANUAL, tokenizer, 4, 64)
    unseen = Calibration(REVIEWS, tokenizer, 4, 64, seed=1)
    reference, other = Reference(model, unseen.batches(model), 256), copy.deepcopy(model)
    prune_structure(model, StructureConfig(sparsity=0.4), text)
    kept = {}
    for sublayer in sublayers(other):
        norms = sublayer.output.matrix.square().sum(0).view(-1, sublayer.size).sum(1)
        kept[sublayer.name] = sorted(norms.topk(math.ceil(0.6 * sublayer.count)).indices.tolist())
    shrink(other, kept)
    assert parameter_count(model) <= parameter_count(other)
    assert reference.kl(model) < 0.7 * reference.kl(other)


def test_the_same_seed_gives_the_same_bits_and_nothing_is_left_behind() -> None:
    results = []
    for _ in range(2):
        model, text = built("bert")
        model.train()
        prune_structure(model, StructureConfig(sparsity=0.5, seed=3), text)
        assert model.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        results.append(model.state_dict())
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_what_is_pruned_can_be_pruned_again() -> None:
    model, text = built("gpt2")
    before = structure_parameters(model)
    prune_structure(model, StructureConfig(sparsity=0.3), text)
    prune_structure(model, StructureConfig(sparsity=0.3), text)
    assert structure_parameters(model) <= 0.49 * before
    model(**text.batches(model)[0])


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_target_out_of_reach_is_refused_before_anything_changes(name: str) -> None:
    model, text = built(name)
    before = copy.deepcopy(model.state_dict())
    without = copy.deepcopy(model)
    shrink(without, {sublayer.name: range(sublayer.at_least) for sublayer in sublayers(without)})
    fastest = seconds(model) / seconds(without)
    with pytest.raises(PruningError, match=rf"speedup {2 * fastest:.0f}.*{fastest:.2f}"):
        prune_structure(model, StructureConfig(speedup=round(2 * fastest)), text, seconds)
    with pytest.raises(PruningError, match=r"parameters 10 .*[0-9],[0-9]{3}"):
        prune_structure(model, StructureConfig(parameters=10), text)
    with pytest.raises(PruningError, match=r"size 1,000 .*[0-9],[0-9]{3}"):
        prune_structure(model, StructureConfig(size=1000), text)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_other_arguments_are_refused() -> None:
    model, text = built("bert")
    with pytest.raises(PruningError, match=r"StructureConfig.*0\.5"):
        prune_structure(model, 0.5, text)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="Linear"):
        prune_structure(torch.nn.Linear(2, 2), StructureConfig(sparsity=0.5), text)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bert", "llama", "bart", "t5"])
def test_uniform_models_are_ordinary_checkpoints(name: str, tmp_path: Path) -> None:
    model, text = built(name)
    before = seconds(model)
    structure = prune_structure(model, StructureConfig(speedup=1.3, uniform=True), text, seconds)
    assert structure.speedup is not None
    assert structure.speedup >= 1.3
    assert structure.speedup == pytest.approx(before / seconds(model))
    assert read_plan(model) is None
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = type(model).from_pretrained(tmp_path).eval()
    batch = text.batches(model)[0]
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)


def test_whole_layers_are_dropped_where_only_that_meets_the_target() -> None:
    model, text = built("bert")  # whose heads can't be removed one by one in an ordinary checkpoint
    structure = prune_structure(model, StructureConfig(sparsity=0.6, uniform=True), text)
    assert len(sublayers(model)) == 2
    assert [entry.kept for entry in structure.removed].count(0) == 2
    assert model.config.num_hidden_layers == 1
    with pytest.raises(PruningError, match="BertForMaskedLM"):
        prune_structure(model, StructureConfig(sparsity=0.9, uniform=True), text)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "config", [StructureConfig(sparsity=0.5), StructureConfig(sparsity=0.5, uniform=True)], ids=str
)
def test_a_gpu_agrees_with_the_cpu(config: StructureConfig) -> None:
    kept = []
    for device in ("cpu", "cuda"):
        model, text = built("bert")
        structure = prune_structure(model.to(device), config, text)
        assert model.device.type == device
        kept.append([entry.kept for entry in structure.removed])
    assert sum(kept[1]) == pytest.approx(sum(kept[0]), rel=0.05)


@pytest.mark.gpu
def test_a_speed_up_is_measured_on_the_cpu() -> None:
    model, text = built("bert")
    devices = set()

    def measure(measured: PreTrainedModel) -> float:
        devices.add(measured.device.type)
        return seconds(measured)

    prune_structure(model.to("cuda"), StructureConfig(speedup=1.2), text, measure)
    assert devices == {"cpu"}
    assert model.device.type == "cuda"
