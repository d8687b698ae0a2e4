"""Prunable weights are found by structure, in architectures that are in no table."""

import re
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
import transformers
from hypothesis import given, strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune
from transformers.pytorch_utils import Conv1D

import aerogel as ag
from aerogel.errors import ModelError
from aerogel.models import PrunableWeight, load_model, prunable_weights
from builders import ARCHITECTURES, BERT_LIKE


def names_of(model: nn.Module, *targets: str) -> list[str]:
    try:
        return [weight.name for weight in prunable_weights(model, targets)]
    except ModelError as error:
        if "prunable" in str(error):
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
def test_matrices_have_output_rows(name: str) -> None:
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
def test_every_matrix_has_one_target(name: str) -> None:
    model = ARCHITECTURES[name].build()
    weights = prunable_weights(model, ("heads", "embeddings", "blocks"))
    assert len({id(weight.parameter) for weight in weights}) == len(weights)
    separate = [name for target in ("blocks", "embeddings", "heads") for name in names_of(model, target)]
    assert sorted(separate) == sorted(weight.name for weight in weights)


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
def test_exclusions_by_name(names: set[str]) -> None:
    model = ARCHITECTURES["bert"].build()
    left = {weight.name for weight in prunable_weights(model, exclude=tuple(names))}
    assert left == ARCHITECTURES["bert"].weights - names


def test_exclusions_are_shell_patterns() -> None:
    model = ARCHITECTURES["bert"].build()
    left = {weight.name for weight in prunable_weights(model, exclude=("*.layer.0.*", "*.output.dense"))}
    assert left == {
        name for name in ARCHITECTURES["bert"].weights if ".layer.0." not in name and not name.endswith(".output.dense")
    }


def test_errors_contain_the_names() -> None:
    model = ARCHITECTURES["bert"].build()
    with pytest.raises(ModelError, match=r"'embedings'.*embeddings"):
        prunable_weights(model, ("embedings",))
    with pytest.raises(ModelError, match=r"'\*.layr.0.\*'"):
        prunable_weights(model, exclude=("*.layer.0.*", "*.layr.0.*"))
    with pytest.raises(ModelError, match=r"'bert.embeddings.word_embeddings'"):
        prunable_weights(model, exclude=("bert.embeddings.word_embeddings",))
    with pytest.raises(ModelError, match=r"blocks.*exclu"):
        prunable_weights(model, exclude=("*",))
    with pytest.raises(ModelError, match=r"Sequential.*blocks"):
        prunable_weights(nn.Sequential(nn.Linear(4, 4)))


def test_fused_experts_are_refused() -> None:
    config = transformers.MixtralConfig(**BERT_LIKE, num_key_value_heads=1, num_local_experts=2)
    model = transformers.MixtralForCausalLM(config)
    with pytest.raises(ModelError, match=r"MixtralForCausalLM .*model\.layers\.0\.mlp\.experts\.\w+"):
        prunable_weights(model)
    assert prunable_weights(model, ("heads",))


def test_convolutions_inside_blocks_are_ignored() -> None:
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


# adapters


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("bert", "gpt2") for kind in ("lora", "dora", "ia3", "tokens")]
    + [("bert", "boft"), ("gpt2", "prompt"), ("gpt2", "p-tuning")],
)
def test_adapters_are_left_out(name: str, kind: str) -> None:
    peft = pytest.importorskip("peft")
    layers = [name.split(".", 4)[-1] for name in ARCHITECTURES[name].weights]
    configs = {
        "lora": lambda: peft.LoraConfig(target_modules="all-linear"),
        "dora": lambda: peft.LoraConfig(
            target_modules="all-linear", use_dora=True, modules_to_save=["word_embeddings"]
        ),
        "ia3": lambda: peft.IA3Config(target_modules=layers, feedforward_modules=[]),
        "boft": lambda: peft.BOFTConfig(target_modules=r".*(query|key|c_proj)"),
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "p-tuning": lambda: peft.PromptEncoderConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8
        ),
        "tokens": lambda: peft.LoraConfig(target_modules="all-linear", trainable_token_indices=[5, 6]),
    }
    model = ARCHITECTURES[name].build()
    before = {target: prunable_weights(model, (target,)) for target in ("blocks", "embeddings")}
    with warnings.catch_warnings():  # peft warns that it sets fan_in_fan_out for Conv1D
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, configs[kind]())
    for target, weights in before.items():
        adapted_weights = [
            weight for weight in prunable_weights(adapted, (target,)) if "modules_to_save" not in weight.name
        ]
        assert [weight.module for weight in adapted_weights] == [weight.module for weight in weights]
        for one, other in zip(adapted_weights, weights, strict=True):
            assert re.sub(r"\.(token_adapter|base_layer|original_module)\b", "", one.name).endswith(other.name)


def test_modules_beside_a_base_layer_are_adapters() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_layer, self.down, self.up = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(2, 8)

    model = nn.Module()
    model.blocks = nn.ModuleList([Adapted(), nn.Linear(8, 8)])
    assert names_of(model, "blocks", "heads") == ["blocks.0.base_layer", "blocks.1"]


# weights that are not plain parameters


def one_linear(module: nn.Module) -> nn.Module:
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Linear(4, 4), module])
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")  # from torch's older weight norm
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda module: prune.l1_unstructured(module, "weight", 0.5), "torch.nn.utils.prune.remove"),
        (parametrizations.weight_norm, "torch.nn.utils.parametrize.remove_parametrizations"),
        (torch.nn.utils.weight_norm, "weight_g and weight_v"),
        (lambda module: module.to("meta"), "meta"),
        (lambda module: setattr(module, "weight", nn.Parameter(torch.ones(4, 4) + 1j)), "complex64"),
        (lambda module: module.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda module: setattr(module, "weight", nn.Parameter(torch.ones(4, 4).byte(), False)), "uint8"),
    ],
    ids=["mask", "parametrization", "weight-norm", "meta", "complex", "float8", "uint8"],
)
def test_weights_that_are_not_plain_parameters_are_refused(change: Callable[[nn.Module], object], named: str) -> None:
    module = nn.Linear(4, 4)
    change(module)
    model = one_linear(module)
    for use in (prunable_weights, ag.inspect, partial(ag.prune, sparsity=0.5)):
        with pytest.raises(ModelError, match=r"blocks\.1 ") as raised:
            use(model)
        assert named in str(raised.value)
    assert names_of(model, "embeddings") == []
    assert [weight.name for weight in prunable_weights(model, exclude=("blocks.1",))] == ["blocks.0"]


def test_a_masked_bias_is_allowed() -> None:
    module = nn.Linear(4, 4)
    prune.l1_unstructured(module, "bias", 0.5)
    assert names_of(one_linear(module), "blocks") == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("flushed", [False, True])
def test_zeros_are_distinguished_from_denormals(dtype: torch.dtype, flushed: bool) -> None:
    smallest = torch.finfo(dtype).smallest_normal / 4
    rows = [[0.0, -0.0, smallest, -smallest], [1.0, torch.nan, torch.inf, -torch.inf]]
    values = torch.tensor(rows, dtype=torch.float64).to(dtype)
    linear, transposed = nn.Linear(4, 2, dtype=dtype), Conv1D(2, 4).to(dtype)
    linear.weight.data, transposed.weight.data = values, values.T.contiguous()
    torch.set_flush_denormal(flushed)
    try:
        for module in (linear, transposed):
            assert PrunableWeight("one", module).zeros.tolist() == [[True, True, False, False], [False] * 4]
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("value", ["tiny-bert", None, [1.0]])
def test_other_types_are_refused(value: object) -> None:
    for use in (prunable_weights, ag.inspect, partial(ag.prune, sparsity=0.5)):
        with pytest.raises(ModelError, match=f"{type(value).__name__} "):
            use(value)


def test_one_target_or_exclusion_may_be_a_string() -> None:
    model = ARCHITECTURES["bert"].build()
    assert {weight.name for weight in prunable_weights(model, "blocks", "*.layer.0.*")} == {
        name for name in ARCHITECTURES["bert"].weights if ".layer.0." not in name
    }
