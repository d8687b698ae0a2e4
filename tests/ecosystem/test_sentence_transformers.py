"""sentence-transformers with packed models: the same embeddings and scores as with the dense pruned model."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

import aerogel as ag
from aerogel.cli.main import run
from aerogel.errors import ModelError
from aerogel.models import Head, prunable_weights, save
from aerogel.runtime.layers import sparse_layers

TEXTS = ["A short text.", "Another one, which is a little longer than the first.", "Third", "The fourth of them"]
PAIRS = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])]
LAYERS = 24  # linear layers in the blocks of tiny-bert


@pytest.fixture
def encoder(tmp_path: Path) -> SentenceTransformer:
    """A sentence encoder with all usual modules after the transformer."""
    model, tokenizer = ag.load("tiny-bert")
    save(model.bert, tokenizer, tmp_path / "body")
    torch.manual_seed(0)
    body = Transformer(str(tmp_path / "body"), max_seq_length=32)
    modules = [body, Pooling(body.get_embedding_dimension(), "cls"), Dense(128, 48), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


@pytest.fixture
def reranker(tmp_path: Path) -> CrossEncoder:
    model, tokenizer = ag.load("tiny-bert", Head("classification", ("score",)))
    save(model, tokenizer, tmp_path / "ranker")
    return CrossEncoder(str(tmp_path / "ranker"), device="cpu", max_length=32)


def packed_in(model: Any) -> int:
    return len(sparse_layers(model.transformers_model))


def same(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, atol=2e-6))


def test_a_packed_folder_gives_the_embeddings_of_the_dense_pruned_model(
    encoder: SentenceTransformer, tmp_path: Path
) -> None:
    encoder.save_pretrained(str(tmp_path / "source"))
    before = encoder.encode(TEXTS)
    command = ["prune", str(tmp_path / "source"), "--sparsity", "0.9", "--output"]
    assert run([*command, str(tmp_path / "dense"), "--no-pack"]) == 0
    assert run([*command, str(tmp_path / "packed")]) == 0
    dense, packed = (SentenceTransformer(str(tmp_path / name), device="cpu") for name in ("dense", "packed"))
    assert (packed_in(dense), packed_in(packed)) == (0, LAYERS)
    assert [type(module) for module in packed] == [Transformer, Pooling, Dense, Normalize]
    assert packed.max_seq_length == 32
    expected = dense.encode(TEXTS)
    assert expected.shape == (4, 48)
    assert not same(expected, before)
    assert same(packed.encode(TEXTS), expected)
    assert same(packed.encode(TEXTS, batch_size=1, normalize_embeddings=True), expected)
    assert same(packed.encode_query(TEXTS), expected)


def test_a_loaded_encoder_is_pruned_compressed_saved_and_restored(encoder: SentenceTransformer, tmp_path: Path) -> None:
    masks = ag.prune(encoder, sparsity=0.9)
    assert masks.keys() == {weight.name for weight in prunable_weights(encoder.transformers_model)}
    assert ag.inspect(encoder).sparsity == pytest.approx(0.9, abs=1e-3)
    expected = encoder.encode(TEXTS)
    dense = copy.deepcopy(encoder)
    assert ag.compress(encoder) is encoder
    assert packed_in(encoder) == LAYERS
    assert same(encoder.encode(TEXTS), expected)
    encoder.save_pretrained(str(tmp_path / "packed"))
    dense.save_pretrained(str(tmp_path / "dense"))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("packed", "dense")]
    assert sizes[0] < sizes[1]
    loaded = SentenceTransformer(str(tmp_path / "packed"), device="cpu")
    assert packed_in(loaded) == LAYERS
    assert same(loaded.encode(TEXTS), expected)
    assert ag.decompress(loaded) is loaded
    state, original = loaded.state_dict(), dense.state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(value, original[name]) for name, value in state.items())


def test_a_method_that_looks_at_text_prunes_an_encoder(encoder: SentenceTransformer) -> None:
    text = ag.calibration("movie-reviews", encoder.tokenizer, samples=2, length=16)
    ag.prune(encoder, method="wanda", sparsity=0.5, calibration=text)
    assert ag.inspect(encoder).sparsity == pytest.approx(0.5, abs=1e-3)


def test_a_reranker_is_packed_and_loaded(reranker: CrossEncoder, tmp_path: Path) -> None:
    ag.prune(reranker, sparsity=0.9)
    expected = reranker.predict(PAIRS)
    assert ag.compress(reranker) is reranker
    assert same(reranker.predict(PAIRS), expected)
    reranker.save_pretrained(str(tmp_path / "packed"))
    loaded = CrossEncoder(str(tmp_path / "packed"), device="cpu")
    assert packed_in(loaded) == LAYERS
    assert same(loaded.predict(PAIRS), expected)
    ranks, expected_ranks = (model.rank(TEXTS[0], TEXTS[1:]) for model in (loaded, reranker))
    assert [entry["corpus_id"] for entry in ranks] == [entry["corpus_id"] for entry in expected_ranks]


def test_its_trainer_prunes_an_encoder(encoder: SentenceTransformer, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"one": TEXTS, "two": TEXTS[::-1], "score": [0.1, 0.9, 0.9, 0.1]})
    text = ag.calibration("movie-reviews", encoder.tokenizer, samples=2, length=16)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=2,
        max_steps=16,
        save_steps=16,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    callback = ag.SparsityCallback(sparsity=0.8, score="wanda", calibration=text)
    loss = CosineSimilarityLoss(encoder)
    SentenceTransformerTrainer(encoder, arguments, train_dataset=rows, loss=loss, callbacks=[callback]).train()
    assert ag.inspect(encoder).sparsity == pytest.approx(0.8, abs=5e-3)
    expected = encoder.encode(TEXTS)
    assert same(ag.compress(encoder).encode(TEXTS), expected)


def test_an_encoder_without_a_transformers_model_is_refused() -> None:
    with pytest.raises(ModelError, match="SentenceTransformer"):
        ag.compress(SentenceTransformer(modules=[Normalize()], device="cpu"))
