"""The fused operators beside torch's: mask by mask, and norm by norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers.cache_utils import DynamicCache
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from aerogel.runtime.fused.block import BlockArguments
from aerogel.runtime.fused.calls import AttentionNorms, DecoderLayers, FeedForward, attention, causal_attention
from aerogel.runtime.kernel import native
from aerogel.runtime.layers import SparseLinear
from builders import instruction_set

MODULE = native()
pytestmark = pytest.mark.skipif(MODULE is None, reason="the operator needs the kernels")
HEADS, SIZE = 3, 16
NORM = nn.LayerNorm(HEADS * SIZE)
LOWEST = torch.finfo(torch.float32).min


def sparse(rows: int, columns: int) -> SparseLinear:
    layer = nn.Linear(columns, rows)
    layer.weight.data[torch.rand_like(layer.weight) < 0.6] = 0
    return SparseLinear.of(layer)


def projections() -> list[SparseLinear]:
    torch.manual_seed(0)
    return [sparse(HEADS * SIZE, HEADS * SIZE) for _ in range(4)]


def reference(x: Tensor, memory: Tensor, mask: Tensor | None, causal: bool, layers: list[SparseLinear]) -> Tensor:
    query, key, value, out = layers

    def heads(layer: SparseLinear, given: Tensor) -> Tensor:
        return layer(given).view(len(given), -1, HEADS, SIZE).transpose(1, 2)

    q, k, v = heads(query, x), heads(key, memory), heads(value, memory)
    attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return NORM(x + out(attended.transpose(1, 2).flatten(2)))


def masks(length: int, keys: int) -> dict[str, Tensor]:
    """Masks of two texts, each with rows that hide every key."""
    seen = torch.rand(2, 1, length, keys) < 0.5
    seen[0, :, 0], seen[1] = False, False
    added = torch.zeros(seen.shape)
    mixed = added.masked_fill(~seen, LOWEST)
    mixed[..., : keys // 2] = -torch.inf
    return {
        "boolean": seen,
        "-inf": added.masked_fill(~seen, -torch.inf),
        "lowest": added.masked_fill(~seen, LOWEST),
        "lowest and -inf": mixed,
        "graded": torch.where(torch.rand(seen.shape) < 0.5, -1e31, -1e33),
        "one row for all": seen[:, :, :1],
        "one text for all": added.masked_fill(~seen, -torch.inf)[:1],
    }


@pytest.mark.parametrize("name", MODULE.instruction_sets() if MODULE else [])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (1, 9), (7, 7), (20, 33), (70, 130)])
def test_a_query_without_a_visible_key_gets_what_torch_gives(name: str, length: int, keys: int) -> None:
    layers = projections()
    x, memory = torch.randn(2, length, HEADS * SIZE), torch.randn(2, keys, HEADS * SIZE)
    with torch.inference_mode(), instruction_set(name):
        for kind, mask in masks(length, keys).items():
            found = attention(
                x,
                layers,
                sizes=(HEADS, HEADS, SIZE),
                norms=AttentionNorms(after=NORM),
                scale=SIZE**-0.5,
                mask=mask,
                encoder_hidden_states=memory,
            )
            expected = reference(x, memory, mask, False, layers)
            torch.testing.assert_close(
                found, expected, rtol=1e-4, atol=1e-4, msg=lambda text, kind=kind: f"{kind}: {text}"
            )
        found = attention(
            x, layers, sizes=(HEADS, HEADS, SIZE), norms=AttentionNorms(after=NORM), scale=SIZE**-0.5, causal=True
        )
        torch.testing.assert_close(found, reference(x, x, None, True, layers), rtol=1e-4, atol=1e-4)


def norm(kind: type[nn.Module], features: int) -> nn.Module:
    built = kind(features)
    for parameter in built.parameters():
        parameter.data = torch.rand(features)
    return built


class Core(nn.Module):
    """What `causal_attention` reads of a family's attention."""

    scaling, is_causal, layer_idx, num_key_value_groups = 0.2, True, 0, 2


@torch.inference_mode()
@pytest.mark.parametrize("kind", [nn.LayerNorm, LlamaRMSNorm, Gemma3RMSNorm])
@pytest.mark.parametrize("name", MODULE.instruction_sets() if MODULE else [])
def test_norms_of_heads_and_branches_are_torchs(name: str, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    features, hidden, queries = HEADS * SIZE, 100, 2 * HEADS
    query, key, value = (sparse(count * SIZE, features) for count in (queries, HEADS, HEADS))
    out, down = sparse(features, queries * SIZE), sparse(features, hidden)
    up, gate = sparse(hidden, features), sparse(hidden, features)
    norms = AttentionNorms(norm(kind, features), norm(kind, SIZE), norm(kind, SIZE), norm(kind, features))
    before, branch = norm(kind, features), norm(kind, features)
    layers = FeedForward(up, down, "gelu", gate=gate, before=before, branch=branch)
    block = DecoderLayers(Core(), (query, key, value, out), (queries, HEADS, SIZE), norms, layers)
    for length in (1, 2, 7, 70):
        x, angles = torch.randn(2, length, features), (torch.randn(2, length, SIZE), torch.randn(2, length, SIZE))
        heads = [layer(norms.before(x)).view(2, length, -1, SIZE) for layer in (query, key, value)]
        q, k = apply_rotary_pos_emb(norms.query(heads[0]), norms.key(heads[1]), *angles, unsqueeze_dim=2)
        tensors = [tensor.transpose(1, 2) for tensor in (q, k, heads[2])]
        attended = scaled_dot_product_attention(*tensors, is_causal=True, scale=Core.scaling, enable_gqa=True)
        expected = x + norms.branch(out(attended.transpose(1, 2).flatten(2)))
        normed = layers.before(expected)
        expected = expected + layers.branch(down(gelu(gate(normed)) * up(normed)))
        for cache in (None, DynamicCache()):
            with instruction_set(name):
                found = causal_attention(BlockArguments(x, cache=cache, position_embeddings=angles), block)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=f"{length} tokens")
