"""One-shot pruning: exact counts, the right weights, and no change after a failure."""

from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from aerogel.errors import AerogelError, ModelError, PruningError
from aerogel.models import prunable_weights
from aerogel.pruning import PruneConfig, prune
from aerogel.pruning.allocation import FLOOR
from builders import ARCHITECTURES

SPARSITIES = [0.0, 0.1, 0.5, 0.9, 0.95, 0.99]
METHODS = ["magnitude", "random"]


class Blocks(nn.Module):
    """Linear layers of given shapes, each a block."""

    def __init__(self, *shapes: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for outputs, inputs in shapes)


def build(name: str) -> nn.Module:
    return ARCHITECTURES[name].build()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def alike(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def zeros(model: nn.Module, targets: tuple[str, ...] = ("blocks",)) -> list[int]:
    return [int((weight.matrix == 0).sum()) for weight in prunable_weights(model, targets)]


# counts


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "albert"])
def test_counts_are_exact_in_every_matrix(name: str, method: str, sparsity: float) -> None:
    model = build(name)
    before = state(model)
    masks = prune(model, method=method, sparsity=sparsity)
    weights = prunable_weights(model)
    assert list(masks) == [weight.name for weight in weights]
    assert zeros(model) == [round(sparsity * weight.matrix.numel()) for weight in weights]
    for weight in weights:
        mask = masks[weight.name]
        assert mask.shape == weight.matrix.shape
        assert mask.dtype == torch.bool
        old = before[f"{weight.name}.weight"]
        old = old.T if name == "gpt2" else old
        assert torch.equal(weight.matrix, torch.where(mask, old, 0.0))
        assert not torch.signbit(weight.matrix[~mask]).any()
    others = {name: value for name, value in before.items() if name.removesuffix(".weight") not in masks}
    assert others
    assert all(torch.equal(model.state_dict()[name], value) for name, value in others.items())


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_counts_are_exact_in_every_row(name: str, sparsity: float) -> None:
    model = build(name)
    prune(model, sparsity=sparsity, scope="row")
    for weight in prunable_weights(model):
        inputs = weight.matrix.shape[1]
        assert (weight.matrix == 0).sum(1).unique().tolist() == [round(sparsity * inputs)]


@pytest.mark.parametrize(
    ("pattern", "sparsity"),
    [(pattern, sparsity) for pattern in ("unstructured", "block:4x1") for sparsity in SPARSITIES]
    + [("block:2x8", 0.9)],
)
@pytest.mark.parametrize("method", METHODS)
def test_the_global_count_is_exact_with_a_floor_in_every_matrix(method: str, sparsity: float, pattern: str) -> None:
    model = build("bart")
    shrunk = prunable_weights(model)[3]
    with torch.no_grad():
        shrunk.matrix.mul_(1e-6)  # would lose all its weights but for the floor
    masks = prune(model, method=method, sparsity=sparsity, scope="global", pattern=pattern)
    block = {"unstructured": 1, "block:4x1": 4, "block:2x8": 16}[pattern]
    units = sum(mask.numel() for mask in masks.values()) // block
    assert sum(zeros(model)) == round(sparsity * units) * block
    for weight in prunable_weights(model):
        least = FLOOR * (1 - sparsity) * weight.matrix.numel()
        assert int(masks[weight.name].sum()) >= max(block, round(least / block) * block)
    if sparsity == 0.9 and method == "magnitude" and pattern == "unstructured":
        assert int(masks[shrunk.name].sum()) == round(FLOOR * 0.1 * shrunk.matrix.numel())


def test_globally_the_largest_of_all_are_kept() -> None:
    model = build("gpt2")
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    masks = prune(model, sparsity=0.5, scope="global")
    lowest = min(float(before[name][mask].abs().min()) for name, mask in masks.items())
    highest = max(float(before[name][~mask].abs().max()) for name, mask in masks.items())
    assert highest <= lowest
    assert len({float(mask.float().mean()) for mask in masks.values()}) > 1


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=8),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["layer", "row", "global"]),
    st.sampled_from(METHODS),
    st.booleans(),
)
def test_any_shapes_and_sparsity(
    shapes: list[tuple[int, int]], sparsity: float, scope: str, method: str, all_equal: bool
) -> None:
    model = Blocks(*shapes)
    if all_equal:
        for layer in model.layers:
            nn.init.constant_(layer.weight, 0.5)
    before = state(model)
    try:
        masks = prune(model, method=method, sparsity=sparsity, scope=scope)
    except PruningError as error:
        assert scope == "global"
        assert "keeps" in str(error)  # noqa: PT017
        assert alike(model, before)
        return
    sizes = [outputs * inputs for outputs, inputs in shapes]
    assert zeros(model) == [int((~mask).sum()) for mask in masks.values()]
    if scope == "layer":
        assert zeros(model) == [round(sparsity * size) for size in sizes]
    elif scope == "row":
        assert zeros(model) == [outputs * round(sparsity * inputs) for outputs, inputs in shapes]
    else:
        assert sum(zeros(model)) == round(sparsity * sum(sizes))
        assert all(mask.any() for mask in masks.values())


def test_the_floor_of_a_large_matrix_counts_among_many_small_ones() -> None:
    model = Blocks((100, 100), *[(1, 2)] * 95)
    before = state(model)
    with pytest.raises(PruningError, match=r"0\.99 .* 102 .* 96 matrices .* 105"):
        prune(model, sparsity=0.99, scope="global")
    assert alike(model, before)
    prune(model, sparsity=0.989, scope="global")


# orientation


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("scope", ["layer", "global", "row"])
def test_groups_run_along_the_inputs(name: str, scope: Any) -> None:
    model = build(name)
    prune(model, pattern="2:4", scope=scope)
    for weight in prunable_weights(model):
        stored = weight.module.weight.detach()
        rows = stored.T if name == "gpt2" else stored  # Conv1D stores (inputs, outputs)
        assert ((rows.reshape(-1, 4) != 0).sum(1) == 2).all()
        across = rows.T.reshape(-1, 4)
        assert not ((across != 0).sum(1) == 2).all()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_blocks_of_outputs_by_inputs(name: str) -> None:
    model = build(name)
    prune(model, pattern="block:4x1", sparsity=0.75)
    for weight in prunable_weights(model):
        stored = weight.module.weight.detach()
        rows = stored.T if name == "gpt2" else stored
        kept = (rows.reshape(rows.shape[0] // 4, 4, -1) != 0).sum(1)
        assert set(kept.unique().tolist()) == {0, 4}
        assert float((kept == 4).float().mean()) == 0.25


# what is chosen


def test_magnitude_keeps_the_largest() -> None:
    model = build("bert")
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    for name, mask in prune(model, sparsity=0.7).items():
        assert before[name][~mask].abs().max() <= before[name][mask].abs().min()


def test_the_seed_decides_random_masks() -> None:
    def masks(seed: int, **settings: Any) -> dict[str, Tensor]:
        return prune(build("bert"), method="random", sparsity=0.5, seed=seed, **settings)

    first, again = masks(0), masks(0)
    assert all(torch.equal(mask, again[name]) for name, mask in first.items())
    for seed in (1, 2, 2**32 - 1):
        other = masks(seed)
        assert not any(torch.equal(mask, other[name]) for name, mask in first.items())
    some = masks(0, exclude=("*.layer.0.*",))  # what else is pruned changes nothing
    assert all(torch.equal(mask, first[name]) for name, mask in some.items())
    same_shape = [mask for mask in first.values() if mask.shape == (32, 32)]
    assert not torch.equal(same_shape[0], same_shape[1])


def test_magnitude_needs_no_seed() -> None:
    first, other = (prune(build("bert"), sparsity=0.5, seed=seed) for seed in (0, 1))
    assert all(torch.equal(mask, other[name]) for name, mask in first.items())


def test_other_weights_stay() -> None:
    model = build("bart")
    before = state(model)
    masks = prune(model, sparsity=0.9, targets=("blocks", "embeddings"), exclude=("*.encoder.layers.0.*", "*positions"))
    assert "model.shared" in masks
    assert not any("positions" in name or "encoder.layers.0." in name for name in masks)
    for name, value in model.state_dict().items():
        if name.removesuffix(".weight") in masks:
            assert not torch.equal(value, before[name])
        elif name not in ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"):
            assert torch.equal(value, before[name]), name


def test_tied_weights_are_pruned_once_and_stay_tied() -> None:
    model = build("gpt2")
    masks = prune(model, sparsity=0.5, targets=("blocks", "embeddings", "heads"), scope="global")
    assert [name for name in masks if "wte" in name or "lm_head" in name] == ["transformer.wte"]
    assert model.lm_head.weight is model.transformer.wte.weight
    total = sum(mask.numel() for mask in masks.values())
    assert sum(zeros(model, ("blocks", "embeddings", "heads"))) == round(0.5 * total)


def test_a_pruned_model_pruned_further_keeps_its_zeros() -> None:
    model = build("bert")
    first = prune(model, sparsity=0.5)
    second = prune(model, sparsity=0.8)
    assert all(not (mask & ~first[name]).any() for name, mask in second.items())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_are_kept(kind: torch.dtype) -> None:
    model = build("bert").to(kind)
    before = state(model)
    masks = prune(model, sparsity=0.5)
    for weight in prunable_weights(model):
        assert weight.matrix.dtype == kind
        old = before[f"{weight.name}.weight"]
        assert torch.equal(weight.matrix, old.masked_fill(~masks[weight.name], 0))
        assert torch.equal(weight.matrix[masks[weight.name]], old[masks[weight.name]])


def test_a_configuration_and_keywords_are_equivalent() -> None:
    config = PruneConfig(method="random", sparsity=0.3, seed=4, exclude=("*.output.dense",))
    first = prune(build("bert"), config)
    second = prune(build("bert"), method="random", sparsity=0.3, seed=4, exclude=("*.output.dense",))
    assert first.keys() == second.keys()
    assert all(torch.equal(mask, second[name]) for name, mask in first.items())
    third = prune(
        build("bert"), PruneConfig(sparsity=0.9, seed=4, exclude=config.exclude), method="random", sparsity=0.3
    )
    assert all(torch.equal(mask, third[name]) for name, mask in first.items())
    with pytest.raises(TypeError):
        prune(build("bert"), sparsty=0.5)


def test_a_resolved_configuration_has_the_defaults_of_the_method_and_pattern() -> None:
    def resolved(*arguments: Any, **settings: Any) -> tuple[Any, ...]:
        config = PruneConfig(*arguments, **settings).resolved()
        assert config.resolved() == config
        return config.sparsity, config.scope, config.allocation

    assert resolved("wanda", 0.9) == (0.9, "row", "uniform")
    assert resolved("best", 0.9) == (0.9, "layer", "mixed")
    assert resolved("best", pattern="2:4") == (0.5, "layer", "uniform")
    assert resolved(scope="global", sparsity=0.3) == (0.3, "layer", "global")
    assert resolved(scope="global", pattern="2:4") == (0.5, "layer", "uniform")
    assert resolved("wanda", pattern="2:4", allocation="owl") == (0.5, "row", "owl")


# failures


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (dict(sparsity=1.0), PruningError, r"sparsity 1 .*\[0, 1\)"),
        (dict(sparsity=-0.5), PruningError, "sparsity -0.5 "),
        (dict(sparsity=nan), PruningError, "sparsity nan "),
        (dict(), PruningError, r"unstructured .*\[0, 1\)"),
        (dict(pattern="block:4x1"), PruningError, r"block:4x1 .*\[0, 1\)"),
        (dict(pattern="2:4", sparsity=0.6), PruningError, r"0\.6 .*pattern 2:4"),
        (dict(pattern="3:5"), PruningError, r"^layer bert\.\S+: pattern 3:5 .* 32 "),
        (dict(pattern="block:64x1", sparsity=0.5), PruningError, r"^layer bert\.\S+: .*block:64x1 .* 32x32"),
        (dict(pattern="2;4"), PruningError, "pattern '2;4'"),
        (dict(sparsity=0.5, method="magnitud"), PruningError, r"method 'magnitud': .* magnitude"),
        (dict(sparsity=0.5, scope="globl"), PruningError, r"scope 'globl': .* global"),
        (dict(sparsity=0.5, targets=("blokcs",)), ModelError, r"target 'blokcs': .* blocks"),
        (dict(sparsity=0.5, exclude=("*.nowhere",)), ModelError, r"exclude '\*.nowhere'"),
        (dict(sparsity=0.5, exclude=("*",)), ModelError, "no prunable weights"),
        (dict(sparsity=0.9999, scope="global"), PruningError, r"0\.9999 .* 2 units.* 12 matrices"),
    ],
)
def test_a_failed_check_changes_nothing(settings: dict[str, Any], error: type[AerogelError], message: str) -> None:
    model = build("bert")
    before = state(model)
    with pytest.raises(error, match=message):
        prune(model, **settings)
    assert alike(model, before)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_a_weight_that_is_not_finite_is_named(value: float) -> None:
    model = build("bert")
    last = prunable_weights(model)[-1]
    with torch.no_grad():
        last.matrix[3, 4] = value
    before = state(model)
    with pytest.raises(PruningError, match=f"^layer {last.name}: .*finite"):
        prune(model, sparsity=0.5)
    del before[f"{last.name}.weight"]
    assert all(torch.equal(model.state_dict()[name], old) for name, old in before.items())
    prune(model, sparsity=0.5, exclude=(last.name,))
