"""A shrunk model computes what the dense one does with zeros in place of what was removed."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import PreTrainedModel

from aerogel.errors import ModelError, PruningError
from aerogel.models import prunable_weights
from aerogel.structure import read_plan, removed, shrink, sublayers
from builders import ARCHITECTURES, train
from structured import CLASSES, GENERATING, build, difference, random_kept, zeroed
from tiny import outputs, tiny_inputs

TOLERANCE = 1e-5
every_family = pytest.mark.parametrize("family", CLASSES)
MODELS: dict[str, PreTrainedModel] = {}


def model_of(family: str) -> PreTrainedModel:
    """A copy of a model that is built once."""
    if family not in MODELS:
        MODELS[family] = build(family)
    return copy.deepcopy(MODELS[family])


@every_family
@settings(max_examples=4)
@given(seed=st.integers(0, 10**6))
def test_it_computes_what_the_dense_model_does_with_zeros(family: str, seed: int) -> None:
    model = model_of(family)
    kept, inputs = random_kept(model, seed), tiny_inputs(model)
    expected = outputs(zeroed(model, kept), inputs)
    before = {sublayer.name: sublayer for sublayer in sublayers(model)}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    shrink(model, kept)
    assert difference(outputs(model, inputs), expected) < TOLERANCE
    gone = {name: before[name].count - len(structures) for name, structures in kept.items()}
    empty = [name for name, structures in kept.items() if not structures]
    expected_loss = sum(count * before[name].parameters for name, count in gone.items())
    loss = parameters - sum(parameter.numel() for parameter in model.parameters())
    if empty:  # the norms of the heads of Qwen3 are gone as well
        assert loss >= expected_loss
    else:
        assert loss == expected_loss
    assert {sublayer.name: sublayer.count for sublayer in sublayers(model)} == {
        name: len(structures) for name, structures in kept.items() if structures
    }


@every_family
def test_each_sub_layer_can_be_removed_as_a_whole(family: str) -> None:
    model = model_of(family)
    inputs = tiny_inputs(model)
    for sublayer in sublayers(model):
        kept = {sublayer.name: list(range(sublayer.at_least))}
        small = copy.deepcopy(model)
        shrink(small, kept)
        assert difference(outputs(small, inputs), outputs(zeroed(model, kept), inputs)) < TOLERANCE, sublayer.name


@every_family
def test_all_can_be_removed_that_nothing_else_needs(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    kept, inputs = random_kept(model, 0, empty=1), tiny_inputs(model)
    expected = outputs(zeroed(model, kept), inputs)
    shrink(model, kept)
    assert difference(outputs(model, inputs), expected) < TOLERANCE
    model.save_pretrained(tmp_path)
    assert difference(outputs(type(model).from_pretrained(tmp_path), inputs), expected) < TOLERANCE


@every_family
def test_two_steps_are_one(family: str) -> None:
    once = model_of(family)
    twice = model_of(family)
    first = random_kept(once, 1, empty=0)
    shrink(twice, first)
    second = random_kept(twice, 2)
    shrink(twice, second)
    shrink(once, {name: [first[name][index] for index in structures] for name, structures in second.items()})
    assert read_plan(once) == read_plan(twice)
    inputs = tiny_inputs(once)
    assert all(map(torch.equal, outputs(once, inputs), outputs(twice, inputs)))
    assert [sublayer.original for sublayer in sublayers(once)] == [
        next(s.count for s in sublayers(model_of(family)) if s.name == sublayer.name) for sublayer in sublayers(once)
    ]


@pytest.mark.parametrize("family", GENERATING)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generating_with_a_cache_is_generating_without(family: str, cache: str) -> None:
    model = model_of(family)
    shrink(model, random_kept(model, 3, empty=0.4))
    ids = torch.randint(5, 190, (2, 6), generator=torch.Generator().manual_seed(0))
    settings = dict(max_new_tokens=8, min_new_tokens=8, do_sample=False, num_beams=2 if cache == "dynamic" else 1)
    expected = model.generate(ids, use_cache=False, **settings)
    options = {"cache_implementation": "static", "disable_compile": True} if cache == "static" else {}
    assert torch.equal(model.generate(ids, use_cache=True, **settings, **options), expected)


@every_family
def test_copies_and_pickles_are_alike(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    shrink(model, random_kept(model, 4))
    inputs = tiny_inputs(model)
    for number, other in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        assert all(map(torch.equal, outputs(other, inputs), outputs(model, inputs)))
        other.save_pretrained(tmp_path / f"{number}")
        loaded = type(model).from_pretrained(tmp_path / f"{number}")
        assert all(map(torch.equal, outputs(loaded, inputs), outputs(model, inputs)))


def test_a_shrunk_model_trains(tmp_path: Path) -> None:
    model = ARCHITECTURES["bert"].build()
    shrink(model, random_kept(model, 5))
    before = [parameter.clone() for parameter in model.parameters()]
    train(model, tmp_path, save_strategy="steps", save_steps=2)
    assert not any(map(torch.equal, model.parameters(), before))
    again = type(model).from_pretrained(tmp_path / "checkpoint-4")
    inputs = tiny_inputs(model)
    assert difference(outputs(again, inputs), outputs(model.eval(), inputs)) < TOLERANCE


def test_parameters_stay_the_same_objects_without_gradients() -> None:
    model = model_of("gpt2")
    before = dict(model.named_parameters())
    model(**tiny_inputs(model)).logits.sum().backward()
    shrink(model, random_kept(model, 6, empty=0))
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert all(
        weight.parameter.grad is None or weight.parameter.grad.shape == weight.parameter.shape
        for weight in prunable_weights(model)
    )


def test_removed_lists_what_was_kept() -> None:
    model = model_of("llama")
    assert removed(model) == []
    shrink(model, {"model.layers.0.mlp": range(10), "model.layers.1.self_attn": [1]})
    assert [(part.name, part.kind, part.kept, part.original) for part in removed(model)] == [
        ("layers.0.self_attn", "heads", 2, 2),
        ("layers.0.mlp", "neurons", 10, 64),
        ("layers.1.self_attn", "heads", 1, 2),
        ("layers.1.mlp", "neurons", 64, 64),
    ]


@pytest.mark.parametrize(
    ("kept", "error", "words"),
    [
        ({"model.layers.0.mpl": [0]}, ModelError, "model.layers.0.mlp"),
        ({"model.layers.0.mlp": [64]}, PruningError, "64"),
        ({"model.layers.0.mlp": [-1, 3]}, PruningError, "-1"),
        ({"model.layers.0.mlp": [3, 3]}, PruningError, r"\[3, 3\]"),
        ({"model.layers.0.mlp": [4, 3]}, PruningError, r"\[4, 3\]"),
        ({"model.layers.0.mlp": [1.0]}, PruningError, r"1\.0"),
        ({"model.layers.1.mlp": [1], "model.layers.0.self_attn": []}, PruningError, "model.layers.0.self_attn"),
    ],
)
def test_what_can_not_be_kept_is_refused_before_anything_changes(
    kept: dict[str, list[int]], error: type[Exception], words: str
) -> None:
    model = model_of("llama")
    inputs = tiny_inputs(model)
    before = outputs(model, inputs)
    with pytest.raises(error, match=words):
        shrink(model, {"model.layers.1.mlp": [0], **kept})
    assert all(map(torch.equal, outputs(model, inputs), before))
    assert read_plan(model) is None
