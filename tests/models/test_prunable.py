"""Prunable weights are found by structure, in architectures that no table knows."""

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from aerogel.errors import ModelError
from aerogel.models import load_model, prunable_weights
from builders import ARCHITECTURES, BERT_LIKE


def names_of(model: nn.Module, *targets: str) -> list[str]:
    try:
        return [weight.name for weight in prunable_weights(model, targets)]
    except ModelError as error:
        if "no prunable weights" in str(error):
            return []
        raise


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_exactly_the_linear_weights_of_the_blocks_are_found(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    weights = prunable_weights(model)
    assert {weight.name for weight in weights} == architecture.weights
    assert len(weights) == len(architecture.weights)
    for weight in weights:
        assert weight.parameter is model.get_submodule(weight.name).weight
        assert weight.name == f"{weight.layer}.{weight.kind}"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_matrices_see_the_weights_by_output_rows(name: str) -> None:
    for weight in prunable_weights(ARCHITECTURES[name].build(), ("blocks", "heads")):
        outputs, inputs = weight.matrix.shape
        column = inputs // 2
        weight.module.float()
        if weight.module.bias is not None:
            nn.init.zeros_(weight.module.bias)
        alone = torch.zeros(1, inputs)
        alone[0, column] = 1
        with torch.no_grad():
            assert torch.equal(weight.module(alone)[0], weight.matrix[:, column])
            weight.matrix[:, column] = 0  # the matrix shares the model's memory
            assert not weight.module(alone).any()
        assert weight.module(alone).shape == (1, outputs)


def test_layers_and_kinds() -> None:
    weights = prunable_weights(ARCHITECTURES["bart"].build())
    cross = next(weight for weight in weights if "decoder.layers.1.encoder_attn.q_proj" in weight.name)
    assert (cross.layer, cross.kind) == ("model.decoder.layers.1", "encoder_attn.q_proj")
    head = prunable_weights(ARCHITECTURES["llama"].build(), ("heads",))[0]
    assert (head.name, head.layer, head.kind) == ("lm_head", "lm_head", "lm_head")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_matrix_is_found_once_and_under_one_target(name: str) -> None:
    model = ARCHITECTURES[name].build()
    found = prunable_weights(model, ("heads", "embeddings", "blocks"))
    assert len({id(weight.parameter) for weight in found}) == len(found)
    separate = [name for target in ("blocks", "embeddings", "heads") for name in names_of(model, target)]
    assert sorted(separate) == sorted(weight.name for weight in found)


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "t5", "opt"])
def test_a_tied_head_is_an_embedding(name: str) -> None:
    model = ARCHITECTURES[name].build()
    tied = model.get_output_embeddings().weight
    assert tied is model.get_input_embeddings().weight
    for targets, times in ((("embeddings",), 1), (("embeddings", "heads"), 1), (("heads",), 0)):
        names = names_of(model, *targets)
        assert sum(model.get_submodule(name).weight is tied for name in names) == times


def test_an_untied_head_is_a_head() -> None:
    model = ARCHITECTURES["llama"].build()
    assert [weight.name for weight in prunable_weights(model, ("heads",))] == ["lm_head"]


@given(st.sets(st.sampled_from(sorted(ARCHITECTURES["bert"].weights)), min_size=1, max_size=11))
def test_what_is_excluded_by_name_is_left_out_and_no_more(names: set[str]) -> None:
    model = ARCHITECTURES["bert"].build()
    found = {weight.name for weight in prunable_weights(model, exclude=tuple(names))}
    assert found == ARCHITECTURES["bert"].weights - names


def test_exclusions_are_shell_patterns() -> None:
    model = ARCHITECTURES["bert"].build()
    found = {weight.name for weight in prunable_weights(model, exclude=("*.layer.0.*", "*.output.dense"))}
    assert found == {
        name for name in ARCHITECTURES["bert"].weights if ".layer.0." not in name and not name.endswith(".output.dense")
    }


def test_errors_say_what_was_asked() -> None:
    model = ARCHITECTURES["bert"].build()
    with pytest.raises(ModelError, match="unknown target 'embedings': did you mean embeddings"):
        prunable_weights(model, ("embedings",))
    with pytest.raises(ModelError, match=r"exclude '\*.layr.0.\*' matches no prunable weight"):
        prunable_weights(model, exclude=("*.layer.0.*", "*.layr.0.*"))
    with pytest.raises(ModelError, match=r"'bert.embeddings.word_embeddings' matches no"):
        prunable_weights(model, exclude=("bert.embeddings.word_embeddings",))
    with pytest.raises(ModelError, match="no prunable weights among blocks that are not excluded"):
        prunable_weights(model, exclude=("*",))
    with pytest.raises(ModelError, match="Sequential has no prunable weights among blocks:"):
        prunable_weights(nn.Sequential(nn.Linear(4, 4)))


def test_fused_experts_are_refused_rather_than_passed_over() -> None:
    config = transformers.MixtralConfig(**BERT_LIKE, num_key_value_heads=1, num_local_experts=2)
    model = transformers.MixtralForCausalLM(config)
    with pytest.raises(ModelError, match=r"MixtralForCausalLM keeps model\.layers\.0\.mlp\.experts\.\w+ as one tensor"):
        prunable_weights(model)
    assert prunable_weights(model, ("heads",))


def test_convolutions_inside_blocks_do_no_harm() -> None:
    config = transformers.MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, state_size=4)
    kinds = {weight.kind for weight in prunable_weights(transformers.MambaForCausalLM(config))}
    assert kinds == {"mixer.in_proj", "mixer.x_proj", "mixer.dt_proj", "mixer.out_proj"}


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_the_zoo_has_weights_outside_its_blocks(name: str) -> None:
    model = load_model(name)
    prunable = sum(weight.matrix.numel() for weight in prunable_weights(model))
    everything = sum(weight.matrix.numel() for weight in prunable_weights(model, ("blocks", "embeddings", "heads")))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 0 < prunable < everything < parameters
