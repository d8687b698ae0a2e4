"""Sub-layers are found in every family, and refused in one sentence in others."""

import copy

import pytest
import torch
import transformers

import aerogel as ag
from aerogel.errors import ModelError
from aerogel.structure import sublayers
from structured import CLASSES, build
from tiny import tiny_config, tiny_model

LAYER = ["attention", "feed_forward"]
CROSSING = ["attention", "cross_attention", "feed_forward"]


@pytest.mark.parametrize("family", CLASSES)
def test_all_attentions_and_feed_forward_layers_are_found(family: str) -> None:
    found = sublayers(build(family))
    expected = 2 * LAYER + 2 * CROSSING if family.startswith(("bart", "t5")) else 2 * LAYER
    assert [sublayer.kind for sublayer in found] == expected
    grouped = family.startswith(("llama", "mistral", "qwen"))
    for sublayer in found:
        heads = 2 if grouped else 4
        assert sublayer.count == sublayer.original == (64 if sublayer.kind == "feed_forward" else heads)
        assert sublayer.output.matrix.shape[1] == sublayer.count * sublayer.size
        for rows in sublayer.inputs:
            assert sorted(rows.rows(range(sublayer.count)).tolist()) == list(range(rows.weight.matrix.shape[0]))


@pytest.mark.parametrize("family", ["bert-decoder", "gpt2"])
def test_cross_attention_of_a_decoder_that_is_not_in_a_pair(family: str) -> None:
    kind, config, changes = CLASSES[family]
    model = tiny_model(kind, tiny_config(config, **changes, add_cross_attention=True))
    assert [sublayer.kind for sublayer in sublayers(model)] == 2 * CROSSING


@pytest.mark.parametrize(
    ("family", "needed"),
    [
        ("bert", [0, 0]),
        ("bert-decoder", [1, 0]),
        ("gpt2", [1, 0]),
        ("llama", [1, 0]),
        ("mistral", [1, 0]),
        ("qwen2", [1, 1]),  # layers of two types have masks of two lengths
        ("bart", [0, 0, 1, 0]),
        ("t5", [1, 0, 1, 0]),
        ("mpnet", [0, 0]),
    ],
)
def test_attentions_that_others_need_keep_a_head(family: str, needed: list[int]) -> None:
    found = sublayers(build(family))
    assert [sublayer.at_least for sublayer in found if sublayer.kind == "attention"] == needed
    assert not any(sublayer.at_least for sublayer in found if sublayer.kind != "attention")


def test_other_families_are_refused() -> None:
    model = tiny_model(transformers.GPTNeoXForCausalLM, tiny_config(transformers.GPTNeoXConfig))
    with pytest.raises(ModelError, match=r"GPTNeoXForCausalLM .*LlamaDecoderLayer.*GPTNeoXLayer"):
        sublayers(model)
    with pytest.raises(ModelError, match="Linear"):
        sublayers(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_a_packed_model_is_refused() -> None:
    model = build("bert")
    ag.prune(model, sparsity=0.8)
    with pytest.raises(ModelError, match=r"bert.encoder.layer.0.attention.self.query .*decompress"):
        sublayers(ag.compress(copy.deepcopy(model)))
    assert sublayers(ag.decompress(ag.compress(model)))


def test_an_adapter_is_refused() -> None:
    model = build("bert")
    model.bert.encoder.layer[1].output.dense = torch.nn.Sequential(model.bert.encoder.layer[1].output.dense)
    with pytest.raises(ModelError, match=r"layer.1.output.dense is Sequential"):
        sublayers(model)
