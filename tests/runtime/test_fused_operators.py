"""What attention adds to its scores, and joined feed-forward layers, beside the same in torch."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from aerogel.errors import ModelError
from aerogel.runtime.fused.calls import AttentionNorms, FeedForward, attention
from aerogel.runtime.kernel import native
from aerogel.runtime.layers import SparseLinear
from aerogel.runtime.values import VALUE_TYPES
from builders import instruction_set

MODULE = native()
pytestmark = pytest.mark.skipif(MODULE is None, reason="the operators need the kernels")
SETS = MODULE.instruction_sets() if MODULE else []
HEADS, SIZE, BATCH = 3, 16, 2
WIDTH = HEADS * SIZE
NORM = nn.LayerNorm(WIDTH)
# int8 rounds the input of a layer, and queries, keys and values may be bfloat16
TOLERANCES = {"float32": 1e-5, "int8": 2e-2}


def sparse(rows: int, columns: int, values: str) -> SparseLinear:
    layer = nn.Linear(columns, rows)
    layer.weight.data[torch.rand_like(layer.weight) < 0.6] = 0
    return SparseLinear.of(layer, VALUE_TYPES[values])


def close(found: Tensor, expected: Tensor, values: str) -> bool:
    return bool((found - expected).norm() <= TOLERANCES[values] * expected.norm())


def heads(layer: SparseLinear, x: Tensor) -> Tensor:
    return layer(x).view(*x.shape[:-1], HEADS, SIZE).transpose(-3, -2)


def reference(x: Tensor, memory: Tensor, layers: list[SparseLinear], added: Tensor | None, scale: float) -> Tensor:
    query, key, value, out = layers
    q, k, v = heads(query, x), heads(key, memory), heads(value, memory)
    attended = scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale)
    return NORM(x + out(attended.transpose(1, 2).flatten(2)))


def relative_scores(x: Tensor, layers: list[SparseLinear], tables: tuple[Tensor | None, Tensor | None]) -> Tensor:
    """Of each head, (batch, heads, query, key)."""
    length, (keys, queries) = x.shape[1], tables
    apart = torch.arange(length)[None] - torch.arange(length)[:, None] + length - 1  # key - query
    scores = torch.zeros(BATCH, HEADS, length, length)
    if keys is not None:
        scores += torch.einsum("bhqd,qkhd->bhqk", heads(layers[0], x), keys.view(-1, HEADS, SIZE)[apart])
    if queries is not None:
        scores += torch.einsum("bhkd,qkhd->bhqk", heads(layers[1], x), queries.view(-1, HEADS, SIZE)[apart.T])
    return scores


@pytest.mark.parametrize("values", TOLERANCES)
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (7, 7), (5, 40), (70, 130)])
def test_a_position_bias_is_added_to_the_scores_of_its_head(name: str, length: int, keys: int, values: str) -> None:
    torch.manual_seed(0)
    layers = [sparse(WIDTH, WIDTH, values) for _ in range(4)]
    x, memory = torch.randn(BATCH, length, WIDTH), torch.randn(BATCH, keys, WIDTH)
    mask = torch.zeros(BATCH, 1, 1, keys)
    mask[0, ..., : keys // 2] = -torch.inf
    settings: dict[str, Any] = dict(sizes=(HEADS, HEADS, SIZE), norms=AttentionNorms(after=NORM), scale=0.25)
    with torch.inference_mode(), instruction_set(name):
        for sequences, used in product((1, BATCH), (None, mask)):
            bias = 3 * torch.randn(sequences, HEADS, length, keys)
            found = attention(x, layers, mask=used, position_bias=bias, encoder_hidden_states=memory, **settings)
            expected = reference(x, memory, layers, bias if used is None else bias + used, 0.25)
            assert close(found, expected, values), (sequences, used is None)


@pytest.mark.parametrize("values", TOLERANCES)
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("length", [1, 2, 9, 16, 64, 70, 150])
def test_relative_positions_are_those_of_disentangled_attention(name: str, length: int, values: str) -> None:
    torch.manual_seed(0)
    layers = [sparse(WIDTH, WIDTH, values) for _ in range(4)]
    x, keys, queries = torch.randn(BATCH, length, WIDTH), *torch.randn(2, 2 * length - 1, WIDTH)
    mask = torch.zeros(BATCH, 1, length, length)
    mask[0, ..., : length // 2] = torch.finfo(torch.float32).min
    settings: dict[str, Any] = dict(sizes=(HEADS, HEADS, SIZE), norms=AttentionNorms(after=NORM), scale=0.1)
    with torch.inference_mode(), instruction_set(name):
        for tables in ((keys, queries), (keys, None), (None, queries)):
            found = attention(x, layers, mask=mask, relative=tables, **settings)
            added = relative_scores(x, layers, tables) * 0.1 + mask
            assert close(found, reference(x, x, layers, added, 0.1), values)


@pytest.mark.parametrize("values", TOLERANCES)
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("tokens", "hidden"), [(1, 30), (2, 30), (20, 30), (70, 1000)])
def test_joined_layers_are_a_gate_and_what_it_multiplies(name: str, tokens: int, hidden: int, values: str) -> None:
    torch.manual_seed(0)
    up, down = sparse(2 * hidden, WIDTH, values), sparse(WIDTH, hidden, values)
    x = torch.randn(1, tokens, WIDTH)
    with torch.inference_mode(), instruction_set(name):
        gate, others = up(NORM(x)).chunk(2, dim=-1)
        expected = x + down(gelu(gate) * others)
        assert close(FeedForward(up, down, "gelu", joined=True, before=NORM)(x), expected, values)


def test_shapes_that_do_not_fit_are_refused() -> None:
    layers = [sparse(WIDTH, WIDTH, "float32") for _ in range(4)]
    x = torch.randn(BATCH, 5, WIDTH)
    settings: dict[str, Any] = dict(sizes=(HEADS, HEADS, SIZE), norms=AttentionNorms(after=NORM), scale=1.0)
    with torch.inference_mode():
        with pytest.raises(ModelError, match=r"\(1, 4, 5, 5\).*\(2, 3, 5, 5\)"):
            attention(x, layers, position_bias=torch.zeros(1, 4, 5, 5), **settings)
        with pytest.raises(ModelError, match=r"\(1, 5, 48\).*\(1, 9, 48\)"):
            attention(x, layers, relative=(torch.zeros(5, WIDTH), None), **settings)
        with pytest.raises(ModelError, match="encoder"):
            attention(x, layers, relative=(torch.zeros(9, WIDTH), None), encoder_hidden_states=x, **settings)
