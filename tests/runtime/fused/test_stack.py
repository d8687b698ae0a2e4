"""The next token through all blocks at once: what the blocks give one by one, or left to them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.cache_utils import DynamicCache, StaticCache

import aerogel as ag
from aerogel.runtime.fused.block import FusedBlock
from aerogel.runtime.fused.stack import DecoderStack
from aerogel.runtime.kernel import native
from builders import SMALL, SPECIAL, WIDE, instruction_set, pruned

MODULE = native()
pytestmark = pytest.mark.skipif(MODULE is None, reason="the operator needs the kernels")
FAMILIES = ["llama", "gpt2"]
HEADS: dict[str, Any] = (
    SMALL | WIDE | SPECIAL | dict(num_key_value_heads=2, head_dim=32, layer_types=["full_attention"] * 2)
)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of a stack gave a result."""
    results: list[bool] = []
    output = DecoderStack.output

    def counted(stack: DecoderStack, call: Any) -> Tensor | None:
        result = output(stack, call)
        if len(stack.blocks) > 1:  # not the comparison of single blocks
            results.append(result is not None)
        return result

    monkeypatch.setattr(DecoderStack, "output", counted)
    return results


def both(family: str, values: Any = None) -> tuple[Any, Any]:
    """A dense pruned model, and the same compressed."""
    dense = pruned(family)
    return dense, ag.compress(copy.deepcopy(dense), values=values)


def run(model: Any, tokens: Tensor, cache: Any = None, **settings: Any) -> tuple[Tensor, Any]:
    with torch.inference_mode():
        output = model(tokens, past_key_values=cache, use_cache=True, **settings)
    return output.logits[:, -1], output.past_key_values


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-4 * expected.norm())


TEXT = torch.randint(3, 100, (1, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODULE.instruction_sets() if MODULE else [])
@pytest.mark.parametrize("values", [None, "bfloat16", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_is_what_the_blocks_give(family: str, values: Any, name: str, computed: list[bool]) -> None:
    _, packed = both(family, values)
    with instruction_set(name):
        _, cache = run(packed, TEXT.expand(2, -1))
        other = copy.deepcopy(cache)
        mask = torch.ones(2, 13, dtype=torch.long)
        mask[0, :4] = 0
        computed.clear()
        found, _ = run(packed, TEXT[:, :1].expand(2, -1), cache, attention_mask=mask)
        assert computed == [True]
        block = next(module for module in packed.modules() if isinstance(module, FusedBlock))
        block.register_forward_hook(lambda *_: None)  # which the stack would not call
        expected, _ = run(packed, TEXT[:, :1].expand(2, -1), other, attention_mask=mask)
    assert computed == [True, False]
    # rounding to bytes turns the last bit of a sum into a step
    assert (found - expected).norm() <= (0.05 if values == "int8" else 1e-4) * expected.norm()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("family", ["Qwen3", "Gemma3"])
def test_norms_of_heads_and_of_what_is_added_count(family: str, batch: int, computed: list[bool]) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config" if family == "Qwen3" else f"{family}TextConfig")(**HEADS)
    dense = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for parameter in dense.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    ag.prune(dense, sparsity=0.7)
    results = []
    for model in (dense, ag.compress(copy.deepcopy(dense))):
        _, cache = run(model, TEXT.expand(batch, -1))
        results.append(run(model, TEXT[:, :1].expand(batch, -1), cache)[0])
    assert computed[-1]
    assert close(results[1], results[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_begin_alike_do_not_share_their_ends(family: str, computed: list[bool]) -> None:
    dense, packed = both(family)
    ends = []
    for model in (dense, packed):
        _, cache = run(model, TEXT)
        _, cache = run(model, TEXT[:, :1], cache)
        branch = DynamicCache()
        for number, layer in enumerate(cache.layers):
            branch.update(layer.keys, layer.values, number)
        shallow = copy.copy(cache)
        shallow.layers = [copy.copy(layer) for layer in cache.layers]
        some = [run(model, TEXT[:, i : i + 1], c)[0] for i, c in ((1, cache), (2, branch), (3, shallow))]
        ends.append(some + [run(model, TEXT[:, 4:5], c)[0] for c in (cache, branch, shallow)])
    assert True in computed
    assert all(map(close, ends[1], ends[0]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.crop(-2),
        lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
        lambda cache: cache.batch_select_indices(torch.tensor([1])),
        lambda cache: cache.reset(),
    ],
    ids=["crop", "reorder", "select", "reset"],
)
def test_a_cache_may_be_changed_between_tokens(
    family: str, change: Callable[[Any], None], computed: list[bool]
) -> None:
    found = []
    texts = torch.cat([TEXT, TEXT.flip(1)])
    for model in both(family):
        _, cache = run(model, texts)
        _, cache = run(model, texts[:, :1], cache)
        change(cache)
        count = len(cache.layers[0].keys) if cache.get_seq_length() else 2
        one, cache = run(model, texts[:count, 1:2], cache)
        two, cache = run(model, texts[:count, 2:3], cache)
        found.append(torch.cat([one, two, torch.full_like(one[:1], cache.get_seq_length())]))
    assert True in computed
    assert close(found[1], found[0])


def test_a_full_static_cache_is_the_models_own_error() -> None:
    dense, packed = both("llama")
    messages = []
    for model in (dense, packed):
        cache = StaticCache(model.config, max_cache_len=13)
        _, cache = run(model, TEXT, cache)
        _, cache = run(model, TEXT[:, :1], cache)
        with pytest.raises((IndexError, RuntimeError, ValueError)) as error:
            run(model, TEXT[:, :1], cache)
        messages.append((type(error.value), str(error.value)))
    assert messages[0] == messages[1]


def _fewer_layers(model: Any) -> None:
    model.config.num_hidden_layers = 1


def _removed_layer(model: Any) -> None:
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1


def _other_order(model: Any) -> None:
    first, second = model.model.layers[:2]
    model.model.layers[0], model.model.layers[1] = second, first
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number


def _doubled_norm(model: Any) -> None:
    model.model.layers[1].input_layernorm.weight = torch.nn.Parameter(model.model.layers[1].input_layernorm.weight * 2)


def _moved_norm(model: Any) -> None:
    weight = model.model.layers[1].input_layernorm.weight
    weight.data = weight.data * 2


def _hook_on_a_block(model: Any) -> None:
    model.model.layers[1].register_forward_hook(lambda block, inputs, output: output * 2)


def _replaced_block(model: Any) -> None:
    forward = model.model.layers[1].forward
    model.model.layers[1].forward = lambda *arguments, **keywords: forward(*arguments, **keywords) * 2


@pytest.mark.parametrize(
    "change",
    [_fewer_layers, _removed_layer, _other_order, _doubled_norm, _moved_norm, _hook_on_a_block, _replaced_block],
)
def test_a_model_may_be_changed_between_tokens(change: Callable[[Any], None], computed: list[bool]) -> None:
    found = []
    for model in both("llama"):
        _, cache = run(model, TEXT)
        _, cache = run(model, TEXT[:, :1], cache)
        change(model)
        found.append(run(model, TEXT[:, 1:2], cache)[0])
    assert True in computed
    assert close(found[1], found[0])


def test_other_weights_are_used_at_once(computed: list[bool]) -> None:
    _, packed = both("llama")
    other, _ = both("llama")
    ag.prune(other, sparsity=0.95)
    packed.load_state_dict(ag.compress(copy.deepcopy(other)).state_dict())
    _, cache = run(packed, TEXT)
    found, _ = run(packed, TEXT[:, :1], cache)
    _, cache = run(other, TEXT)
    assert computed[-1]
    assert close(found, run(other, TEXT[:, :1], cache)[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_their_own(family: str, copied: Callable[[Any], Any], computed: list[bool]) -> None:
    _, packed = both(family)
    _, cache = run(packed, TEXT)
    expected, _ = run(packed, TEXT[:, :1], copy.deepcopy(cache))
    other = copied(packed)
    for parameter in packed.parameters():
        parameter.data.zero_()
    found, _ = run(other, TEXT[:, :1], cache)
    assert computed[-1]
    assert close(found, expected)


def test_a_cache_in_use_is_copied_and_saved() -> None:
    _, packed = both("llama")
    _, cache = run(packed, TEXT)
    _, cache = run(packed, TEXT[:, :1], cache)
    memory = io.BytesIO()
    torch.save(cache, memory)
    memory.seek(0)
    copies = [copy.deepcopy(cache), torch.load(memory, weights_only=False)]
    expected, _ = run(packed, TEXT[:, 1:2], cache)
    for other in copies:
        assert close(run(packed, TEXT[:, 1:2], other)[0], expected)


def test_hidden_states_of_every_block_are_given() -> None:
    states = []
    for model in both("llama"):
        _, cache = run(model, TEXT)
        with torch.inference_mode():
            output = model(TEXT[:, :1], past_key_values=cache, use_cache=True, output_hidden_states=True)
        states.append(torch.cat(output.hidden_states))
    assert close(states[1], states[0])


def test_a_block_called_alone_computes_itself(computed: list[bool]) -> None:
    """Someone may go through the blocks by a loop of their own."""
    found = []
    for model in both("llama"):
        _, cache = run(model, TEXT)
        x = torch.ones(1, 1, model.config.hidden_size)
        angles = model.model.rotary_emb(x, torch.tensor([[12]]))
        with torch.inference_mode():
            found.append(model.model.layers[0](x, position_embeddings=angles, past_key_values=cache, use_cache=True))
    assert True not in computed
    assert close(found[1], found[0])


def test_threads_generate_at_the_same_time() -> None:
    _, packed = both("llama")
    texts = [TEXT.roll(i, dims=1) for i in range(6)]

    def generate(text: Tensor) -> list[int]:
        tokens: Tensor = packed.generate(text, max_new_tokens=20, do_sample=False, pad_token_id=0)
        return list(map(int, tokens[0]))

    expected = [generate(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(generate, texts)) == expected


def test_decompressed_models_have_no_hooks() -> None:
    _, packed = both("llama")
    ag.decompress(packed)
    assert not packed.model._forward_pre_hooks
    assert not packed.model._forward_hooks
