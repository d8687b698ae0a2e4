"""Checkpoints of models whose layers differ in size: loaded small, refused if damaged, and packed like others."""

import copy
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import aerogel as ag
from aerogel.errors import ModelError
from aerogel.models import Head, load_model
from aerogel.runtime import kernel
from aerogel.runtime.fused.block import FusedBlock
from aerogel.runtime.layers import sparse_layers
from aerogel.runtime.unpacking import unpack
from aerogel.structure import read_plan, removed, shrink, sublayers
from structured import CLASSES, GENERATING, build, difference, random_kept
from tiny import outputs, tiny_inputs

TAKE_EMPTY = ("bert", "bert-decoder", "roberta", "xlm-r", "electra")  # fuse a block with an empty sub-layer
every_family = pytest.mark.parametrize("family", CLASSES)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = build("bert")
    chosen = {"bert.encoder.layer.1.intermediate": [], "bert.encoder.layer.0.attention.self": [0, 2]}
    shrink(model, random_kept(model, 0, empty=0.0) | chosen)
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@every_family
def test_a_packed_model_computes_what_the_shrunk_one_does(family: str, tmp_path: Path) -> None:
    model = build(family)
    shrink(model, random_kept(model, 1))
    ag.prune(model, sparsity=0.5, scope="layer")
    inputs, packed = tiny_inputs(model), ag.compress(copy.deepcopy(model))
    assert difference(outputs(packed, inputs), outputs(model, inputs)) < 1e-5
    packed.save_pretrained(tmp_path / "packed")
    loaded = type(model).from_pretrained(tmp_path / "packed")
    assert all(map(torch.equal, outputs(loaded, inputs), outputs(packed, inputs)))
    assert read_plan(loaded) == read_plan(packed) == read_plan(model)
    assert removed(loaded) == removed(model)
    unpack(str(tmp_path / "packed"), tmp_path / "unpacked")
    dense = type(model).from_pretrained(tmp_path / "unpacked")
    assert all(map(torch.equal, outputs(dense, inputs), outputs(model, inputs)))
    assert read_plan(dense) == read_plan(model)
    assert not sparse_layers(dense)


@pytest.mark.skipif(kernel.native() is None, reason="blocks are fused where the kernels are")
@pytest.mark.parametrize("family", [family for family in CLASSES if not family.startswith("opt")])
def test_blocks_are_fused_and_in_some_families_those_with_an_empty_sub_layer(family: str) -> None:
    for kind in ("no", "attention", "feed_forward"):
        model = build(family)
        last = [part for part in sublayers(model) if part.kind == kind and not part.at_least][-1:]
        shrink(model, random_kept(model, 2, empty=0.0) | {sublayer.name: [] for sublayer in last})
        ag.prune(model, sparsity=0.5, scope="layer")
        ag.compress(model)
        blocks = {sublayer.block for sublayer in sublayers(build(family))}
        unfused = {name for name in blocks if not isinstance(model.get_submodule(name), FusedBlock)}
        assert unfused == (set() if family in TAKE_EMPTY else {sublayer.block for sublayer in last})


@pytest.mark.parametrize("family", GENERATING)
def test_a_packed_model_generates_what_the_shrunk_one_does(family: str) -> None:
    model = build(family)
    shrink(model, random_kept(model, 3, empty=0.0))
    ag.prune(model, sparsity=0.5, scope="layer")
    ids = torch.randint(5, 190, (2, 6), generator=torch.Generator().manual_seed(0))
    text: dict[str, Any] = dict(max_new_tokens=8, min_new_tokens=8, do_sample=False)
    packed = ag.compress(copy.deepcopy(model))
    for options in ({}, {"cache_implementation": "static", "disable_compile": True}):
        assert torch.equal(packed.generate(ids, **text, **options), model.generate(ids, **text))


def test_int8_values(tmp_path: Path) -> None:
    model = build("bert")
    shrink(model, random_kept(model, 4, empty=0.3))
    inputs, exact = tiny_inputs(model), outputs(model, tiny_inputs(model))
    ag.compress(model, values="int8").save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert all(map(torch.equal, outputs(loaded, inputs), outputs(model, inputs)))
    assert 0 < difference(outputs(loaded, inputs), exact) < 0.1


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_classes_load_the_small_body(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build(family)
    shrink(model, random_kept(model, 5))
    model.save_pretrained(tmp_path)
    plan = read_plan(model)
    assert plan
    for name in ("AutoModel", "AutoModelForSequenceClassification", "AutoModelForTokenClassification"):
        factory = getattr(transformers, name)
        if type(model.config) not in factory._model_mapping:
            continue
        other = factory.from_pretrained(tmp_path, dtype=dtype)
        bodies = [
            {key.removeprefix(f"{part.base_model_prefix}."): tensor for key, tensor in part.state_dict().items()}
            for part in (model, other)
        ]
        shared = [key for key in bodies[0].keys() & bodies[1].keys() if ".0." in key or ".1." in key]
        assert shared
        for key in shared:
            assert torch.equal(bodies[1][key], bodies[0][key].to(bodies[1][key].dtype)), key
        assert read_plan(other) == plan
        body = other.base_model
        assert all(tensor.isfinite().all() for tensor in outputs(body, tiny_inputs(body)))


def test_it_is_an_ordinary_model(saved: Path, tmp_path: Path) -> None:
    model, report = transformers.BertForMaskedLM.from_pretrained(saved, output_loading_info=True)
    assert not any(report.values())
    assert not model.is_quantized
    assert getattr(model, "hf_quantizer", None) is None
    inputs = tiny_inputs(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), load_model(saved), load_model(str(saved))):
        assert all(map(torch.equal, outputs(other, inputs), outputs(model, inputs)))
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path / "half", dtype="auto", device_map="auto")
    assert again.dtype == torch.bfloat16
    assert all(map(torch.equal, outputs(again, inputs), outputs(half, inputs)))
    model.train()(**inputs).logits.sum().backward()
    assert all(layer.weight.grad is not None for layer in model.modules() if isinstance(layer, nn.Linear))
    assert load_model(saved, Head("classification", ("a", "b"))).config.num_labels == 2
    state = model.state_dict()
    copied = transformers.BertForMaskedLM.from_pretrained(None, config=model.config, state_dict=state)
    assert all(map(torch.equal, outputs(copied, inputs), outputs(model.eval(), inputs)))


def test_there_is_nothing_to_unpack(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(saved)):
        unpack(str(saved), tmp_path / "unpacked")


def test_transformers_alone_refuses_it(saved: Path) -> None:
    script = "import sys, transformers\nprint(transformers.AutoModel.from_pretrained(sys.argv[1]))\n"
    surroundings = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    for words in ("import aerogel", "ignore_mismatched_sizes"):  # with the hint, and without
        done = subprocess.run(
            [sys.executable, "-c", script, str(saved)], capture_output=True, text=True, env=surroundings
        )
        assert done.returncode == 1
        assert not done.stdout
        assert words in done.stderr.strip().splitlines()[-1]
        edit(saved, lambda config: config.pop("transformers_weights", None))


def test_a_process_that_imports_aerogel_last_loads_it(saved: Path) -> None:
    script = (
        "import sys, transformers, aerogel\nfrom transformers import AutoModelForMaskedLM\n"
        "print(sum(p.numel() for p in AutoModelForMaskedLM.from_pretrained(sys.argv[1]).parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(saved)], capture_output=True, text=True)
    parameters = sum(parameter.numel() for parameter in load_model(saved).parameters())
    assert done.stdout.strip() == str(parameters), done.stderr


@pytest.mark.parametrize("pack", [False, True])
def test_the_large_model_is_never_built(pack: bool, tmp_path: Path) -> None:
    model = build("bert")
    names = [sublayer.name for sublayer in sublayers(model) if sublayer.kind == "feed_forward"]
    shrink(model, dict.fromkeys(names, range(8)))
    (ag.compress(model, values="int8") if pack else model).save_pretrained(tmp_path)

    def enlarge(config: dict[str, Any]) -> None:
        config["intermediate_size"] = 2**23
        for entry in config["quantization_config"]["structure"].values():
            entry["of"] = entry["of"] if "heads" in entry else 2**23

    edit(tmp_path, enlarge)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = transformers.BertForMaskedLM.from_pretrained(tmp_path)
    assert loaded.config.intermediate_size == 2**23
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # kB, where the large one has 2 GB


# what is refused

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
ATTENTION, UP = "encoder.layer.0.attention.self", "encoder.layer.0.intermediate"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


PLANS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an unknown sub-layer": (lambda plan: plan.update({"encoder.layer.9.intermediate": plan[UP]}), "layer.9"),
    "a missing sub-layer": (lambda plan: plan.pop(UP), UP),
    "other heads": (lambda plan: plan[ATTENTION].update(heads=[0, 1, 2]), "attention.self"),
    "other neurons": (lambda plan: plan[UP].update(neurons=3), "intermediate.dense"),
    "another number of heads": (lambda plan: plan[ATTENTION].update(of=6), f"{ATTENTION} has 4"),
    "neurons for heads": (lambda plan: plan.update({ATTENTION: {"neurons": 2, "of": 4}}), ATTENTION),
    "heads for neurons": (lambda plan: plan.update({UP: {"heads": [0], "of": 64}}), UP),
    "heads out of range": (lambda plan: plan[ATTENTION].update(heads=[0, 7]), ATTENTION),
    "nothing": (lambda plan: plan.clear(), "structure"),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("pack", [False, True])
def test_a_plan_that_does_not_fit_is_refused(name: str, pack: bool, saved: Path, tmp_path: Path) -> None:
    change, words = PLANS[name]
    folder = saved
    if pack:
        model = load_model(saved)
        folder = tmp_path / "packed"
        ag.compress(model, values="int8").save_pretrained(folder)
    edit(folder, lambda config: change(config["quantization_config"]["structure"]))
    with pytest.raises(ModelError, match=words):
        transformers.BertForMaskedLM.from_pretrained(folder)
    with pytest.raises(ModelError, match=words):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.update(packed=3), "packed.* 3"),
        (lambda config: config.update(values="int8"), "packed"),
        (lambda config: config.pop("structure"), "packed"),
        (lambda config: config.update(structure=[]), "structure"),
    ],
)
def test_other_settings_are_refused(change: Callable[[dict[str, Any]], object], words: str, saved: Path) -> None:
    edit(saved, lambda config: change(config["quantization_config"]))
    with pytest.raises(ModelError, match=words):
        load_model(saved)


def test_a_large_configuration_is_refused_before_memory_is_allocated(saved: Path) -> None:
    edit(saved, lambda config: config.update(vocab_size=2**31))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for load in (load_model, transformers.BertForMaskedLM.from_pretrained):
        with pytest.raises(ModelError, match=r"GB.* MB"):
            load(saved)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17


@pytest.mark.parametrize("change", ["a shape", "no weight", "no bias of an empty sub-layer"])
def test_tensors_that_do_not_fit_are_refused(change: str, saved: Path) -> None:
    path = saved / "model.safetensors"
    tensors: dict[str, Tensor] = load_file(path)
    key = QUERY if change != "no bias of an empty sub-layer" else "bert.encoder.layer.1.output.dense.bias"
    tensor = tensors.pop(key)
    if change == "a shape":
        tensors[key] = torch.cat([tensor, tensor])
    save_file(tensors, path, metadata={"format": "pt"})
    for load in (load_model, transformers.BertForMaskedLM.from_pretrained, transformers.AutoModel.from_pretrained):
        with pytest.raises(ModelError, match=key.removeprefix("bert.")):
            load(saved)
