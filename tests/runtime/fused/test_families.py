"""Every family of fused blocks gives what its own code gives, whatever a block is called with.

A new family is an entry in `FAMILIES`, and if its forward has an argument that no other has, one in `variations`.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel

import aerogel as ag
from aerogel.runtime.fused import FAMILIES as CLASSES, unfuse
from aerogel.runtime.fused.block import CACHE_NAMES, FusedBlock
from aerogel.runtime.kernel import native
from builders import BART, SMALL, SPECIAL, WIDE

pytestmark = pytest.mark.skipif(native() is None, reason="blocks are fused where the kernels are")
GUIDE = Path(__file__).parents[3] / "docs" / "fuse-a-family.md"
BATCH, LENGTH, HEADS, WIDTH = 2, 9, 4, 96
BERT: dict[str, Any] = SMALL | WIDE | {"max_position_embeddings": 160}
T5: dict[str, Any] = dict(d_model=96, d_kv=24, d_ff=200, num_layers=2, num_heads=4, vocab_size=100)
DEBERTA: dict[str, Any] = BERT | dict(relative_attention=True, type_vocab_size=0, pos_att_type=["p2c", "c2p"])
V3: dict[str, Any] = dict(position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True)
DECODER: dict[str, Any] = SMALL | WIDE | SPECIAL | dict(num_key_value_heads=2, head_dim=32)
WINDOW: dict[str, Any] = dict(sliding_window=6, layer_types=["sliding_attention", "full_attention"])
IMAGES: dict[str, Any] = SMALL | WIDE | dict(image_size=20, patch_size=5)
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**BERT)),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**BERT)),
    "xlm-r": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**BERT)),
    "electra": lambda: transformers.ElectraModel(transformers.ElectraConfig(**BERT, embedding_size=32)),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(dim=96, n_layers=2, n_heads=4, hidden_dim=200, vocab_size=100, **WIDE)
    ),
    "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(**BERT)),
    "modernbert": lambda: transformers.ModernBertModel(
        transformers.ModernBertConfig(**BERT, pad_token_id=0, local_attention=8, global_attn_every_n_layers=2)
    ),
    "deberta-v2": lambda: transformers.DebertaV2Model(transformers.DebertaV2Config(**DEBERTA)),
    "deberta-v3": lambda: transformers.DebertaV2Model(transformers.DebertaV2Config(**DEBERTA, **V3)),
    "deberta-c2p": lambda: transformers.DebertaV2Model(
        transformers.DebertaV2Config(**DEBERTA | {"pos_att_type": ["c2p"]}, max_relative_positions=6)
    ),
    "deberta-conv": lambda: transformers.DebertaV2Model(
        transformers.DebertaV2Config(**DEBERTA | {"pos_att_type": ["p2c"]}, conv_kernel_size=3)
    ),
    "deberta-plain": lambda: transformers.DebertaV2Model(
        transformers.DebertaV2Config(**BERT, type_vocab_size=0, relative_attention=False)
    ),
    "t5-encoder": lambda: transformers.T5EncoderModel(transformers.T5Config(**T5)),
    "t5": lambda: transformers.T5Model(transformers.T5Config(**T5, feed_forward_proj="gated-gelu")),
    "bart": lambda: transformers.BartModel(transformers.BartConfig(**BART | {"init_std": 0.1}, decoder_ffn_dim=200)),
    "gpt2": lambda: transformers.GPT2Model(
        transformers.GPT2Config(n_embd=96, n_layer=2, n_head=4, vocab_size=100, initializer_range=0.2)
    ),
    "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(num_key_value_heads=2, **SMALL, **WIDE)),
    "mistral": lambda: transformers.MistralModel(transformers.MistralConfig(**DECODER, sliding_window=6)),
    "qwen2": lambda: transformers.Qwen2Model(transformers.Qwen2Config(**DECODER, **WINDOW, use_sliding_window=True)),
    "qwen3": lambda: transformers.Qwen3Model(transformers.Qwen3Config(**DECODER, **WINDOW, use_sliding_window=True)),
    "gemma": lambda: transformers.GemmaModel(transformers.GemmaConfig(**DECODER)),
    "gemma2": lambda: transformers.Gemma2Model(transformers.Gemma2Config(**DECODER, **WINDOW)),
    "gemma3": lambda: transformers.Gemma3TextModel(
        transformers.Gemma3TextConfig(**DECODER, **WINDOW, query_pre_attn_scalar=20)
    ),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**IMAGES)),
    "deit": lambda: transformers.DeiTModel(transformers.DeiTConfig(**IMAGES)),
}
# dtype, values, tolerance: rounding at the softmax of a wide model is amplified
FORMS: dict[str, tuple[torch.dtype, str | None, float]] = {
    "float32": (torch.float32, None, 1e-5),
    "bfloat16": (torch.bfloat16, None, 6e-2),
    "int8": (torch.float32, "int8", 6e-2),
}


def models(family: str, form: str = "float32") -> tuple[Any, Any]:
    """A compressed model with fused blocks, and the same with its family's own."""
    torch.manual_seed(0)
    dtype, values, _ = FORMS[form]
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms that are not constant
                parameter += 0.1 * torch.randn_like(parameter)
    ag.prune(model, sparsity=0.7)
    fused = ag.compress(model.to(dtype), values=values)
    own = copy.deepcopy(fused)
    unfuse(own)
    return fused, own


def fused_blocks(model: nn.Module) -> list[FusedBlock]:
    return [module for module in model.modules() if isinstance(module, FusedBlock)]


def inputs(model: PreTrainedModel, length: int, hidden: Callable[[Tensor], None] = lambda mask: None) -> dict[str, Any]:
    """Random inputs; `hidden` writes zeros into the mask of the tokens."""
    torch.manual_seed(1)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(BATCH, 3, 20, 20, dtype=model.dtype)}
    mask = torch.ones(BATCH, length, dtype=torch.long)
    hidden(mask)
    call = {"input_ids": torch.randint(3, 100, mask.shape), "attention_mask": mask}
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        call |= {"decoder_input_ids": torch.randint(3, 100, (BATCH, 7)), "decoder_attention_mask": mask[:, :7]}
    return call


PADDINGS: dict[str, Callable[[Tensor], Any]] = {
    "none": lambda mask: None,
    "left": lambda mask: mask[0, :3].zero_(),
    "right": lambda mask: mask[0, -3:].zero_(),
    "a whole row": lambda mask: mask[0].zero_(),
}


def close(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether outputs are equal: tensors up to rounding, tuples of them, anything else not compared."""
    if isinstance(expected, tuple):
        same = isinstance(found, tuple) and len(found) == len(expected)
        return same and all(close(one, other, tolerance) for one, other in zip(found, expected, strict=True))
    if not isinstance(expected, Tensor):
        return type(found) is type(expected)
    found, expected = found.float(), expected.float()
    return found.shape == expected.shape and bool((found - expected).norm() <= tolerance * expected.norm())


def test_every_family_is_here() -> None:
    classes = {type(block).__bases__[-1].__name__ for family in FAMILIES for block in fused_blocks(models(family)[0])}
    assert classes == set(CLASSES)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_models_give_what_they_give_with_their_own_blocks(family: str, form: str) -> None:
    fused, own = models(family, form)
    assert fused_blocks(fused)
    is_text = fused.main_input_name == "input_ids"
    cases = product((2, LENGTH, 70), PADDINGS) if is_text else [(0, "none")]
    with torch.inference_mode():
        for length, padding in cases:
            call = inputs(fused, length, PADDINGS[padding])
            found, expected = (model(**call).last_hidden_state for model in (fused, own))
            assert close(found, expected, FORMS[form][2]), (length, padding)


class Call:
    """One call of a fused block by its model."""

    def __init__(self, model: Any, block: FusedBlock) -> None:
        self.block, self.family = block, type(block).__bases__[-1]
        forward = inspect.signature(self.family.forward)
        self.parameters = [name for name, one in forward.parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
        handle = block.register_forward_pre_hook(self._keep, with_kwargs=True)
        with torch.inference_mode():
            model(**inputs(model, LENGTH, PADDINGS["left"]))
        handle.remove()

    def _keep(self, block: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.arguments = {**dict(zip(self.parameters[1:], arguments, strict=False)), **keywords}
        for name in CACHE_NAMES:  # the call alone, without what it wrote
            self.arguments.pop(name, None)

    def __call__(self, **changes: Any) -> tuple[Any, Any, bool]:
        """What the fused block and its family's own code give, and whether the call was fused; or the errors' types."""
        was_fused, fused = [], self.block.fused
        self.block.fused = lambda call: was_fused.append(fused(call)) or was_fused[-1]  # type: ignore[method-assign]
        results = []
        for forward in (self.block.forward, lambda **call: self.family.forward(self.block, **call)):
            call = {name: copy.deepcopy(value) for name, value in (self.arguments | changes).items()}
            try:
                with torch.inference_mode():
                    output = forward(**call)
                lengths = [torch.tensor(value.get_seq_length()) for value in call.values() if isinstance(value, Cache)]
                results.append((output, *lengths))
            except (TypeError, ValueError, RuntimeError, AttributeError) as error:
                results.append(type(error))
        del self.block.fused
        return *results, any(output is not None for output in was_fused)


def masks(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[str, Tensor | None]]:
    seen = torch.rand(shape) < 0.6
    seen[..., 0] = True
    yield "none", None
    yield "boolean", seen
    yield "additive", torch.zeros(shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    yield "of each head", seen.expand(-1, HEADS, -1, -1).clone().bernoulli_(0.7).bool().logical_or_(seen)


def variations(call: Call) -> Iterator[tuple[str, str, Any]]:
    """(argument, description, value) for each argument of the family's forward."""
    states: Tensor = call.arguments["hidden_states"]
    length, dtype = states.shape[1], states.dtype
    for name in call.parameters[2:]:  # after self and the hidden states
        if name in ("attention_mask", "encoder_attention_mask"):
            if call.arguments.get("encoder_hidden_states") is None and name.startswith("encoder"):
                continue
            for description, mask in masks((BATCH, 1, length, LENGTH if name.startswith("encoder") else length), dtype):
                yield name, description, mask
        elif name in ("position_bias", "encoder_decoder_position_bias"):
            keys = LENGTH if name.startswith("encoder") else length
            yield name, "none", None
            for sequences in (1, BATCH):
                yield name, f"of {sequences}", torch.randn(sequences, HEADS, length, keys, dtype=dtype)
        elif name == "position_embeddings":
            cosine = call.arguments[name][0]
            yield name, "of each text", tuple(torch.rand(2, BATCH, *cosine.shape[1:], dtype=dtype))
        elif name == "relative_pos":
            yield name, "absent", None
            yield name, "of any kind", torch.randint(-3, 3, (1, length, length))
            yield name, "of each text", torch.randint(-3, 3, (BATCH, length, length))
        elif name in CACHE_NAMES:
            yield name, "empty", DynamicCache()
        else:
            yield name, "given", OTHERS[name](states)


OTHERS: dict[str, Callable[[Tensor], Any]] = {
    "encoder_hidden_states": lambda states: torch.randn(BATCH, LENGTH, WIDTH, dtype=states.dtype),
    "rel_embeddings": lambda states: torch.randn(512, WIDTH, dtype=states.dtype),
    "query_states": lambda states: torch.randn_like(states),
    "output_attentions": lambda states: True,
    "position_ids": lambda states: torch.arange(states.shape[1])[None],
    "cache_position": lambda states: torch.arange(states.shape[1]),
    "use_cache": lambda states: True,
}
WITH_CACHE = {"t5", "bart", "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"}
NOT_FUSED = {"absent", "of each head", "of any kind", "of each text", "given", "empty"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_argument_of_a_block_counts(family: str) -> None:
    model, _ = models(family)
    for number, block in enumerate(fused_blocks(model)):
        call = Call(model, block)
        found, expected, was_fused = call()
        assert was_fused
        assert close(found, expected, 1e-4)
        assert call(surprising=torch.ones(1))[:2] == (TypeError, TypeError) or not call(surprising=torch.ones(1))[2]
        for name, description, value in variations(call):
            found, expected, was_fused = call(**{name: value})
            case = f"block {number}, {name}: {description}"
            assert close(found, expected, 1e-4), case
            if (
                description not in NOT_FUSED
                and (family, description) != ("mpnet", "boolean")
                and not isinstance(expected, type)
            ):
                assert was_fused, case


@pytest.fixture
def siglip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family in the guide, which the package does not have."""
    module = ModuleType("aerogel.runtime.fused.siglip")
    exec(re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0], vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(CLASSES, "SiglipEncoderLayer", "siglip")
    config = transformers.SiglipTextConfig(**SMALL, max_position_embeddings=160)
    monkeypatch.setitem(FAMILIES, "siglip", lambda: transformers.SiglipTextModel(config))


@pytest.mark.usefixtures("siglip")
@pytest.mark.parametrize("form", FORMS)
def test_the_family_of_the_guide_does_too(form: str) -> None:
    test_models_give_what_they_give_with_their_own_blocks("siglip", form)


@pytest.mark.usefixtures("siglip")
def test_every_argument_of_the_guides_block_counts() -> None:
    test_every_argument_of_a_block_counts("siglip")


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITH_CACHE])
def test_models_compile_as_a_whole(family: str) -> None:
    fused, own = models(family)
    call = inputs(fused, LENGTH, PADDINGS["left"])
    torch.compiler.reset()  # it keeps a number of graphs for a forward, whatever its model
    with torch.no_grad():
        found = torch.compile(fused, backend="aot_eager", fullgraph=True)(**call).last_hidden_state
        assert close(found, own(**call).last_hidden_state, 1e-5)
