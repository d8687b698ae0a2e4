"""The inputs of each block: equal to a slow computation on every architecture, and the outputs of pruned blocks."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import ModelError, PruningError
from aerogel.models import Head, load, load_tokenizer, prunable_weights
from aerogel.pruning.batches import Batch
from aerogel.pruning.blocks import BlockLoader, block_lists, walk
from aerogel.pruning.calibration import Calibration
from builders import ARCHITECTURES, prose, text_data

NAMES = [name for name in ARCHITECTURES if name != "albert"]


def batches_for(name: str, model: PreTrainedModel, samples: int = 3) -> list[Batch]:
    decoder = name in ("gpt2", "opt", "gpt-neox", "llama")
    tokenizer = load_tokenizer("tiny-gpt2" if decoder else "tiny-bart")
    return Calibration(text_data(prose(100)), tokenizer, samples, 32).batches(model)


def slow_moments(model: PreTrainedModel, batches: list[Batch]) -> dict[str, Tensor]:
    """XᵀX of every linear layer from whole passes, each text alone and cut to its real tokens."""
    sums: dict[str, Tensor] = {}

    def add(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs = arguments[0].detach().reshape(-1, arguments[0].shape[-1]).double()
            sums[name] = sums.get(name, 0) + inputs.T @ inputs

        return hook

    handles = [weight.module.register_forward_pre_hook(add(weight.name)) for weight in prunable_weights(model)]
    with torch.no_grad():
        for batch in batches:
            for index in range(len(batch["input_ids"])):
                row = {name: values[index : index + 1] for name, values in batch.items()}
                if "attention_mask" in row:
                    length = int(row["attention_mask"].sum())
                    row |= {name: row[name][:, :length] for name in ("input_ids", "attention_mask")}
                model(**row)
    for handle in handles:
        handle.remove()
    return sums


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_whole_passes_without_padding(name: str) -> None:
    model = ARCHITECTURES[name].build()
    batches = batches_for(name, model)
    expected = slow_moments(model, batches)
    found = {}
    for block in walk(model, prunable_weights(model), batches, True, "test"):
        found.update(block.moments)
    assert set(found) == set(expected) == ARCHITECTURES[name].weights
    for weight, moments in found.items():
        torch.testing.assert_close(moments.double(), expected[weight], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "bart", "t5", "bert"])
def test_the_inputs_of_a_block_are_the_outputs_of_pruned_blocks(name: str) -> None:
    model = ARCHITECTURES[name].build()
    batches = batches_for(name, model)
    weights = prunable_weights(model)
    found = {}
    for block in walk(model, weights, batches, True, "test"):
        found.update(block.moments)
        for weight in block.weights:
            weight.matrix.mul_(torch.rand(weight.matrix.shape) < 0.5)
    after = slow_moments(model, batches)
    # the inputs of a block's first layers depend on the blocks before it alone
    first = {}
    for weight in weights:
        first.setdefault(weight.layer, weight.name)
    for weight in first.values():
        torch.testing.assert_close(found[weight].double(), after[weight], rtol=1e-3, atol=1e-3)


def test_cross_attention_keys_and_values_get_the_encoder_states() -> None:
    model, _ = load("tiny-bart")
    batches = Calibration(text_data(prose(200)), load_tokenizer("tiny-bart"), 3, 64).batches(model)
    found = {}
    for block in walk(model, prunable_weights(model), batches, True, "test"):
        found.update(block.moments)
    cross = {name: moments for name, moments in found.items() if "encoder_attn" in name}
    for layer in (0, 1):
        prefix = f"model.decoder.layers.{layer}.encoder_attn"
        assert cross[f"{prefix}.k_proj"] is cross[f"{prefix}.v_proj"]
        assert cross[f"{prefix}.k_proj"] is not cross[f"{prefix}.q_proj"]
    # both decoder blocks read the same encoder
    keys = [cross[f"model.decoder.layers.{layer}.encoder_attn.k_proj"] for layer in (0, 1)]
    assert keys[0] is not None
    torch.testing.assert_close(keys[0], keys[1])


@pytest.mark.parametrize("name", ["bert", "bart", "t5", "gpt2", "distilbert"])
def test_classifiers_are_walked_too(name: str, tmp_path: Any) -> None:
    from aerogel.models import load_model, save

    save(ARCHITECTURES[name].build(), load_tokenizer("tiny-gpt2" if name == "gpt2" else "tiny-bart"), tmp_path / name)
    model, tokenizer = load(str(tmp_path / name), Head("classification", ("sad", "glad")))
    assert load_model(str(tmp_path / name)) is not model
    batches = Calibration(text_data(prose(100)), tokenizer, 3, 32).batches(model)
    walked = walk(model, prunable_weights(model), batches, False, "test")
    names = [weight.name for block in walked for weight in block.weights]
    assert sorted(names) == sorted(weight.name for weight in prunable_weights(model))


def test_the_model_is_unchanged_afterwards() -> None:
    model = ARCHITECTURES["llama"].build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    steps: list[tuple[int, int]] = []
    with progress.listening(lambda doing, done, total: steps.append((done, total))):
        for _ in walk(model, prunable_weights(model), batches_for("llama", model), True, "test"):
            pass
    assert model.training
    assert model.config.to_dict() == config
    assert all("forward" not in module.__dict__ and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert steps[0] == (0, 2)
    assert steps[-1] == (2, 2)


def test_layers_with_the_same_input_share_one_sum() -> None:
    model = ARCHITECTURES["llama"].build()
    for block in walk(model, prunable_weights(model), batches_for("llama", model), True, "test"):
        kinds = {weight.kind: block.moments[weight.name] for weight in block.weights}
        assert kinds["self_attn.q_proj"] is kinds["self_attn.k_proj"] is kinds["self_attn.v_proj"]
        assert kinds["mlp.gate_proj"] is kinds["mlp.up_proj"]
        assert len({id(sums) for sums in kinds.values()}) == 4


def test_activations_beyond_the_limit_go_to_disk(tmp_path: Path) -> None:
    model = ARCHITECTURES["llama"].build()
    batches = [*batches_for("llama", model), *batches_for("llama", model)]

    def moments(loader: BlockLoader) -> list[Tensor]:
        sums = []
        for block in walk(model, prunable_weights(model), batches, True, "test", loader=loader):
            sums += block.moments.values()
            on_disk.append(sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))
        return sums

    on_disk: list[int] = []
    loader = BlockLoader()
    in_memory = moments(loader)
    loader.in_memory, loader.scratch = 5000, tmp_path
    assert all(torch.equal(one, other) for one, other in zip(in_memory, moments(loader), strict=True))
    assert on_disk[-1] > on_disk[0] == 0
    assert not list(tmp_path.iterdir())


# refusals


def test_shared_blocks_are_refused() -> None:
    model = ARCHITECTURES["albert"].build()
    with pytest.raises(ModelError, match=r"block albert\.encoder\.albert_layer_groups\.0 .*3 times"):
        next(walk(model, prunable_weights(model), batches_for("albert", model), True, "test"))


def test_blocks_that_change_the_states_between_them_are_refused() -> None:
    torch.manual_seed(0)
    model = transformers.XLMWithLMHeadModel(transformers.XLMConfig(vocab_size=8000, emb_dim=32, n_layers=2, n_heads=2))
    batches = batches_for("bert", ARCHITECTURES["bert"].build())
    with pytest.raises(ModelError, match=r"block transformer\.attentions\.1 "):
        next(walk(model, prunable_weights(model), batches, True, "test"))


def test_a_forward_that_is_set_on_a_block_stays() -> None:
    model = ARCHITECTURES["llama"].build()
    block, times = model.model.layers[1], 0
    before = block.forward

    def counting(*arguments: Any, **keywords: Any) -> Any:
        nonlocal times
        times += 1
        return before(*arguments, **keywords)

    block.forward = counting
    for _ in walk(model, prunable_weights(model), batches_for("llama", model), True, "test"):
        pass
    assert block.__dict__["forward"] is counting
    assert times


def test_weights_outside_a_list_of_blocks_are_refused() -> None:
    model = ARCHITECTURES["llama"].build()
    weights = prunable_weights(model, ("blocks", "heads"))
    with pytest.raises(ModelError, match=r"layer lm_head .*nn\.ModuleList"):
        block_lists(model, weights)


def test_a_layer_whose_inputs_are_not_finite_is_named() -> None:
    model = ARCHITECTURES["llama"].build()
    batches = batches_for("llama", model)
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight[3] = torch.inf
    walked = walk(model, prunable_weights(model), batches, True, "test")
    next(walked)
    with pytest.raises(PruningError, match=r"layer model\.layers\.1\.mlp\.gate_proj: .*not all finite"):
        next(walked)
