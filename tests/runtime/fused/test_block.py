"""Fused blocks give what their families' own code gives, whatever they are called with, or leave the call to it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, StaticCache
from transformers.models.llama.modeling_llama import LlamaAttention

import aerogel as ag
from aerogel.errors import AerogelWarning
from aerogel.runtime.fused.block import FusedBlock, cache_name
from aerogel.runtime.fused.llama import FusedLlamaDecoderLayer
from aerogel.runtime.kernel import native
from builders import BART, SMALL, SPECIAL, WIDE, pruned

pytestmark = pytest.mark.skipif(native() is None, reason="blocks are fused where the kernels are")

DECODER: dict[str, Any] = SMALL | WIDE | SPECIAL | dict(is_decoder=True, use_cache=True)
HEADS: dict[str, Any] = SMALL | WIDE | SPECIAL | dict(num_key_value_heads=2, head_dim=32)
WINDOW: dict[str, Any] = dict(sliding_window=6, layer_types=["sliding_attention", "full_attention"])
GENERATORS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: pruned("gpt2"),
    "llama": lambda: pruned("llama"),
    "bert": lambda: _pruned(transformers.BertLMHeadModel(transformers.BertConfig(**DECODER))),
    "roberta": lambda: _pruned(transformers.RobertaForCausalLM(transformers.RobertaConfig(**DECODER))),
    "bart": lambda: _pruned(
        transformers.BartForConditionalGeneration(
            transformers.BartConfig(**BART, decoder_ffn_dim=200, forced_eos_token_id=None)
        )
    ),
    "t5": lambda: _pruned(
        transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                d_model=96, d_kv=24, d_ff=200, num_layers=2, num_heads=4, vocab_size=100, decoder_start_token_id=0
            )
        )
    ),
    "mistral": lambda: _pruned(transformers.MistralForCausalLM(transformers.MistralConfig(**HEADS, sliding_window=6))),
    "qwen2": lambda: _pruned(
        transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**HEADS, **WINDOW, use_sliding_window=True))
    ),
    "qwen3": lambda: _pruned(
        transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**HEADS, **WINDOW, use_sliding_window=True))
    ),
    "gemma": lambda: _pruned(transformers.GemmaForCausalLM(transformers.GemmaConfig(**HEADS))),
    "gemma2": lambda: _pruned(transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**HEADS, **WINDOW))),
    "gemma3": lambda: _pruned(
        transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**HEADS, **WINDOW, query_pre_attn_scalar=20))
    ),
}
ENCODER_DECODERS = ["bart", "t5"]
DECODERS = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"]  # without an encoder
NOT_FUSED: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma4": lambda: _pruned(transformers.Gemma4ForCausalLM(transformers.Gemma4TextConfig(**HEADS, **WINDOW))),
    "smollm3": lambda: _pruned(transformers.SmolLM3ForCausalLM(transformers.SmolLM3Config(**HEADS))),
}
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": dict(num_beams=3),
    "static cache": dict(cache_implementation="static"),
    "prompt lookup": dict(prompt_lookup_num_tokens=3),
    "without a cache": dict(use_cache=False),
    "sampling": dict(do_sample=True, temperature=0.7),
}


def _pruned(model: PreTrainedModel) -> PreTrainedModel:
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms that are not constant
            parameter.data += 0.1 * torch.randn_like(parameter)
    ag.prune(model.eval(), sparsity=0.7)
    return model


def both(family: str) -> tuple[Any, Any]:
    """A dense pruned model, and the same compressed, with fused blocks."""
    torch.manual_seed(0)
    dense = (GENERATORS | NOT_FUSED)[family]()
    packed = ag.compress(copy.deepcopy(dense))
    assert any(isinstance(module, FusedBlock) for module in packed.modules()) == (family in GENERATORS)
    return dense, packed


def cache_argument(model: PreTrainedModel) -> str:
    name = cache_name(tuple(inspect.signature(model.forward).parameters))
    assert name
    return name


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-4 * expected.norm())


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize("family", [*GENERATORS, *NOT_FUSED])
@pytest.mark.parametrize("search", SEARCHES)
def test_generated_tokens_are_the_dense_models(family: str, search: str) -> None:
    dense, packed = both(family)
    tokens = torch.randint(3, 100, (1 if search == "prompt lookup" else 2, 8))
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0  # padding on the left
    call = dict(max_new_tokens=12, do_sample=False, pad_token_id=0, attention_mask=mask) | SEARCHES[search]
    found = []
    for model in (dense, packed):
        torch.manual_seed(0)
        try:
            found.append(model.generate(tokens, **call))
        except (ValueError, TypeError) as error:  # a search that transformers does not have for the family
            found.append(torch.tensor(list(str(error).encode())))
    assert torch.equal(*found)


@pytest.mark.parametrize("family", GENERATORS)
def test_text_may_come_in_pieces_of_any_length(family: str) -> None:
    dense, packed = both(family)
    name = cache_argument(packed)
    tokens = torch.randint(3, 100, (2, 9))
    results = []
    for model in (dense, packed):
        cache, outputs, seen = None, [], 0
        for length in (3, 1, 4, 1):
            crosses = family in ENCODER_DECODERS
            ids = "decoder_input_ids" if crosses else "input_ids"
            call: dict[str, Any] = {ids: tokens[:, seen : seen + length], name: cache, "use_cache": True}
            call |= {"encoder_outputs": (torch.ones(2, 5, 96),)} if crosses else {}
            with torch.inference_mode():
                output = model(**call)
            cache, seen = getattr(output, name), seen + length
            outputs.append(output.logits)
        results.append(torch.cat(outputs, dim=1))
    assert close(results[1], results[0])


def outcome(model: Any, **call: Any) -> Tensor | str:
    """The logits, or the error where the call is refused."""
    try:
        with torch.inference_mode():
            return model(**call).logits
    except (IndexError, RuntimeError) as error:
        return repr(error)


def assert_alike(found: Tensor | str, expected: Tensor | str) -> None:
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        assert close(found, expected)
    else:
        assert found == expected


def new_cache(kind: str, config: Any) -> Cache:
    return StaticCache(config=config, max_cache_len=12) if kind == "static" else DynamicCache(config=config)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_texts_beyond_the_models_positions_count_as_in_a_dense_model(family: str) -> None:
    """A table of positions has no more rows; rotary angles have no end."""
    found, expected = (outcome(model, input_ids=torch.ones(1, 1100).long()) for model in reversed(both(family)))
    assert isinstance(expected, Tensor) == (family == "llama")
    assert_alike(found, expected)


@pytest.mark.parametrize("family", DECODERS)
def test_texts_beyond_a_static_cache_count_as_in_a_dense_model(family: str) -> None:
    outcomes = []
    for model in both(family):
        call = {cache_argument(model): new_cache("static", model.config), "use_cache": True}
        pieces = torch.arange(3, 18)[None].split(8, dim=1)
        outcomes.append([outcome(model, input_ids=piece, **call) for piece in pieces])
    for expected, found in zip(*outcomes, strict=True):
        assert_alike(found, expected)


@pytest.mark.parametrize("family", GENERATORS)
def test_a_text_of_padding_alone_does_not_change_the_others(family: str) -> None:
    dense, packed = both(family)
    tokens = torch.randint(3, 100, (3, 8))
    mask = torch.ones_like(tokens)
    mask[1] = 0
    call = dict(max_new_tokens=6, do_sample=False, pad_token_id=0, attention_mask=mask)
    expected, found = (model.generate(tokens, **call) for model in (dense, packed))
    assert torch.equal(found, expected)
    alone = packed.generate(tokens[2:], **call | {"attention_mask": mask[2:]})
    assert torch.equal(found[2:, : alone.shape[1]], alone)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("family", DECODERS)
def test_a_model_may_be_converted_between_two_steps(family: str, kind: str) -> None:
    dense, _ = both(family)
    model, tokens = copy.deepcopy(dense), torch.randint(3, 100, (2, 12))
    call = {cache_argument(model): new_cache(kind, model.config), "use_cache": True}
    found = []
    with torch.inference_mode():
        for piece in tokens.split([4, 3, 1, 1, 3], dim=1):
            found.append(model(piece, **call).logits)
            (ag.compress if len(found) % 2 else ag.decompress)(model)
        assert close(torch.cat(found, dim=1), dense(tokens).logits)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_unknown_argument_leaves_the_call_to_the_familys_code(family: str) -> None:
    """`is_causal` goes through a model's keywords to its attention, which then looks ahead."""
    dense, packed = both(family)
    tokens = torch.randint(3, 100, (2, 9))
    with torch.inference_mode():
        causal, ahead = (dense(tokens, **call).logits for call in ({}, {"is_causal": False}))
        assert not close(ahead, causal)
        assert close(packed(tokens, is_causal=False).logits, ahead)


def test_scores_that_are_capped_are_left_to_the_familys_code() -> None:
    """Which refuses the attention function that the fused operators replace."""
    for model in both("gemma2"):
        model.config._attn_implementation = "sdpa"
        with pytest.raises(ValueError, match="softcap"), torch.inference_mode():
            model(torch.randint(3, 100, (2, 9)))


@pytest.mark.parametrize("family", ["bert", "bart", "llama"])
def test_hooks_inside_a_block_are_called(family: str) -> None:
    _, packed = both(family)
    called = []
    block = next(module for module in packed.modules() if isinstance(module, FusedBlock))
    for name, module in block.named_modules():
        if name and not list(module.children()) and type(module).__name__ == "SparseLinear":
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    tokens = torch.randint(3, 100, (2, 9))
    with torch.inference_mode():
        packed(tokens)
    linear = [name for name, module in block.named_modules() if type(module).__name__ == "SparseLinear"]
    assert sorted(called) == sorted(linear)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_replaced_forwards_inside_a_block_are_called(family: str) -> None:
    dense, packed = both(family)
    tokens = torch.randint(3, 100, (2, 9))
    with torch.inference_mode():
        before = dense(tokens).logits
        for model in (dense, packed):
            for module in model.modules():
                if type(module).__name__ in ("BertSelfAttention", "GPT2Attention", "LlamaAttention"):
                    module.forward = _doubled(module.forward)
        after = dense(tokens).logits
        assert not close(after, before)
        assert close(packed(tokens).logits, after)


def test_blocks_with_a_module_from_elsewhere_are_not_fused() -> None:
    """It may differ where the comparison of blocks does not look, such as after many tokens."""
    model = pruned("llama")
    model.model.layers[0].self_attn.__class__ = _Attention
    ag.compress(model)
    assert [isinstance(layer, FusedBlock) for layer in model.model.layers] == [False] + [True] * (
        len(model.model.layers) - 1
    )


class _Attention(LlamaAttention):
    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return super().forward(*arguments, **keywords)


def _doubled(forward: Callable[..., Any]) -> Callable[..., Any]:
    def doubled(*arguments: Any, **keywords: Any) -> Any:
        output, *others = forward(*arguments, **keywords)
        return (output * 2, *others)

    return doubled


def test_the_tokens_of_continuous_batching_are_the_dense_models() -> None:
    dense, packed = both("gpt2")
    prompt = [5, 60, 70]
    settings = transformers.GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=0)
    expected = dense.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0)[0, 3:]
    batched = packed.generate_batch(inputs=[prompt], generation_config=settings, progress_bar=False)
    assert [result.generated_tokens for result in batched.values()] == [expected.tolist()]


def test_blocks_that_differ_from_their_familys_code_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they would if another version of transformers gave an argument another meaning."""
    fused = FusedLlamaDecoderLayer.fused
    monkeypatch.setattr(FusedLlamaDecoderLayer, "fused", lambda self, call: fused(self, replace(call, cache=None)))
    dense = GENERATORS["llama"]()
    named = f"LlamaDecoderLayer.*transformers {transformers.__version__}, torch {torch.__version__}"
    with pytest.warns(AerogelWarning, match=named.replace("+", r"\+")):
        packed = ag.compress(copy.deepcopy(dense))
    assert not any(isinstance(module, FusedBlock) for module in packed.modules())
    tokens = torch.randint(3, 100, (1, 8))
    call = dict(max_new_tokens=8, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(tokens))
    assert torch.equal(dense.generate(tokens, **call), packed.generate(tokens, **call))


def test_blocks_that_fail_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(self: Any, call: Any) -> Tensor:
        raise TypeError("forward() got an unexpected keyword argument")

    monkeypatch.setattr(FusedLlamaDecoderLayer, "fused", fused)
    with pytest.warns(AerogelWarning, match="LlamaDecoderLayer could not be compared with its own code: forward"):
        packed = ag.compress(GENERATORS["llama"]())
    assert not any(isinstance(module, FusedBlock) for module in packed.modules())


def test_comparing_changes_nothing() -> None:
    """Neither the random numbers drawn next, nor the modes of the modules."""
    model = GENERATORS["gpt2"]().train()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    ag.compress(model)
    assert torch.equal(torch.rand(4), expected)
    assert all(module.training for module in model.modules() if not isinstance(module, ag.runtime.layers.SparseLinear))


def test_hooks_inside_a_block_count_in_a_compiled_model_too() -> None:
    dense, packed = pruned("bert"), ag.compress(pruned("bert"))
    for model in (dense, packed):
        model.encoder.layer[0].intermediate.register_forward_hook(lambda module, inputs, output: 2 * output)
    tokens = torch.randint(3, 100, (2, 9))
    with torch.no_grad():
        expected = dense(tokens)[0]
        assert close(packed(tokens)[0], expected)
        assert close(torch.compile(packed, backend="aot_eager")(tokens)[0], expected)
