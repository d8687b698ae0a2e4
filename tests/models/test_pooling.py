"""Pooling is that of sentence-transformers, read from its folders and written to new ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aerogel.errors import ModelError
from aerogel.models import Head, load, save
from aerogel.models.pooling import FLAGS, MODES, Pooling, pooling_of

TEXTS = ["A short text.", "A longer text, with several words more than the other one has.", "Words"]


def embeddings(folder: Path) -> torch.Tensor:
    model, tokenizer = load(folder, Head("embedding"))
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return pooling_of(model)(model(**batch).last_hidden_state, batch["attention_mask"])


def write_modules(folder: Path, pooling: Any, *kinds: str) -> None:
    names = ("Transformer", "Pooling", *kinds)
    modules = [{"path": f"{place}_{kind}" if place else "", "type": f"a.b.{kind}"} for place, kind in enumerate(names)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(*load("tiny-bert", Head("embedding")), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("normalize", [False, True])
def test_embeddings_are_those_of_sentence_transformers(folder: Path, mode: str, normalize: bool) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    Pooling(mode, normalize).write(folder, 128)
    expected = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    torch.testing.assert_close(embeddings(folder), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_both_formats_are_read(tmp_path: Path, mode: str) -> None:
    for place, stored in enumerate(({"pooling_mode": mode}, {"pooling_mode": [mode]}, {FLAGS[mode]: True})):
        folder = tmp_path / str(place)
        folder.mkdir()
        write_modules(folder, stored, *["Normalize"] * (place == 1))
        assert Pooling.read(folder) == Pooling(mode, place == 1)


@pytest.mark.parametrize(
    ("stored", "others", "named"),
    [
        ({"pooling_mode": "mean"}, ["Dense"], "Dense"),
        ({"pooling_mode": "weightedmean"}, [], "weightedmean"),
        ({"pooling_mode": ["mean", "max"]}, [], "mean, max"),
        ({"pooling_mode_weightedmean_tokens": True}, [], "weightedmean"),
        ({}, [], "none"),
        ([], [], "1_Pooling"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, stored: Any, others: list[str], named: str) -> None:
    write_modules(tmp_path, stored, *others)
    with pytest.raises(ModelError, match=named):
        Pooling.read(tmp_path)


@pytest.mark.parametrize("content", ["{", "7", "[7]"])
def test_damaged_files_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelError, match=r"modules\.json"):
        Pooling.read(tmp_path)


def test_a_model_keeps_its_pooling_in_copies_and_in_new_checkpoints(folder: Path, tmp_path: Path) -> None:
    write_modules(folder, {"pooling_mode": "cls"}, "Normalize")
    model, tokenizer = load(folder, Head("embedding"))
    assert pooling_of(model) == Pooling("cls", normalize=True)
    clone = copy.deepcopy(model)
    (folder / "modules.json").unlink()
    assert pooling_of(clone) == pooling_of(model)
    save(clone, tokenizer, tmp_path / "new", source=folder)
    assert Pooling.read(tmp_path / "new") == pooling_of(model)


def test_other_models_pool_the_mean_and_their_checkpoints_stay_plain(folder: Path) -> None:
    assert not (folder / "modules.json").exists()
    model, _ = load(folder, Head("embedding"))
    assert pooling_of(model) == Pooling("mean", normalize=False)


def test_a_checkpoint_without_a_pooler_gets_none() -> None:
    model, _ = load("tiny-bert", Head("embedding"))
    assert not any("pooler" in name for name, _ in model.named_parameters())
