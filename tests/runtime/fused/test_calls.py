"""The fused attention operator beside torch's, mask by mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from aerogel.runtime.fused.calls import attention
from aerogel.runtime.kernel import native
from aerogel.runtime.layers import SparseLinear
from builders import instruction_set

MODULE = native()
pytestmark = pytest.mark.skipif(MODULE is None, reason="the operator needs the kernels")
HEADS, SIZE = 3, 16
NORM = nn.LayerNorm(HEADS * SIZE)
LOWEST = torch.finfo(torch.float32).min


def projections() -> list[SparseLinear]:
    torch.manual_seed(0)
    layers = [nn.Linear(HEADS * SIZE, HEADS * SIZE) for _ in range(4)]
    for layer in layers:
        layer.weight.data[torch.rand_like(layer.weight) < 0.6] = 0
    return [SparseLinear.of(layer) for layer in layers]


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
                after=NORM,
                scale=SIZE**-0.5,
                mask=mask,
                encoder_hidden_states=memory,
            )
            expected = reference(x, memory, mask, False, layers)
            torch.testing.assert_close(
                found, expected, rtol=1e-4, atol=1e-4, msg=lambda text, kind=kind: f"{kind}: {text}"
            )
        found = attention(x, layers, sizes=(HEADS, HEADS, SIZE), after=NORM, scale=SIZE**-0.5, causal=True)
        torch.testing.assert_close(found, reference(x, x, None, True, layers), rtol=1e-4, atol=1e-4)
