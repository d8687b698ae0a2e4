"""Models of images and speech through the commands: small random checkpoints with their processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import aerogel as ag
from aerogel.benchmark import BenchConfig, Subject, bench
from aerogel.benchmark.inputs import random_batch
from aerogel.cli.main import run
from aerogel.errors import ModelError
from aerogel.models import load_model, save
from aerogel.runtime.layers import sparse_layers
from heads import SPEECH, inputs, of

KINDS: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[], Any], int]] = {
    # a model, its processor, and the number of its linear layers in blocks
    "vit": (of("ViTForImageClassification", num_labels=4), lambda: images("ViT"), 12),
    "deit": (of("DeiTForImageClassificationWithTeacher", num_labels=4), lambda: images("DeiT"), 12),
    "wav2vec2": (of("Wav2Vec2ForCTC", **SPEECH), transformers.Wav2Vec2FeatureExtractor, 12),
    "hubert": (of("HubertModel", **SPEECH), transformers.Wav2Vec2FeatureExtractor, 12),
    "whisper": (
        of("WhisperForConditionalGeneration", max_source_positions=20),
        lambda: transformers.WhisperFeatureExtractor(chunk_length=1),
        32,
    ),
}


def images(family: str) -> Any:
    """The family's processor that needs no torchvision."""
    sides = {"height": 32, "width": 32}
    return getattr(transformers, f"{family}ImageProcessorPil")(size=sides, crop_size=sides)


def outputs(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch)[0]


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    build, processor, _ = KINDS[request.param]
    save(build(), processor(), tmp_path / request.param)
    return tmp_path / request.param


@pytest.mark.parametrize("folder", list(KINDS), indirect=True)
def test_a_model_comes_with_its_processor(folder: Path) -> None:
    model, processor = ag.load(folder)
    assert type(processor) is type(KINDS[folder.name][1]())
    if model.main_input_name == "pixel_values":
        prepared = processor(np.zeros((50, 40, 3), dtype=np.uint8), return_tensors="pt")
    else:
        prepared = processor(np.zeros(16_000), sampling_rate=16_000, return_tensors="pt")
    assert model.main_input_name in prepared
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        ag.load(folder)
    load_model(folder)


@pytest.mark.parametrize("folder", list(KINDS), indirect=True)
def test_from_a_checkpoint_to_a_packed_one_and_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked"
    assert run(["prune", str(folder), "--sparsity", "0.8", "--output", str(packed)]) == 0
    model, processor = ag.load(packed)
    assert len(sparse_layers(model)) == KINDS[folder.name][2]
    assert processor.to_dict() == ag.load(folder)[1].to_dict()
    assert run(["inspect", str(packed), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sparsity"] == pytest.approx(0.8, abs=0.01)

    assert run(["unpack", str(packed), "--output", str(unpacked)]) == 0
    dense, batch = load_model(unpacked), inputs(model)
    torch.testing.assert_close(outputs(model, batch), outputs(dense, batch), rtol=1e-4, atol=1e-5)
    original = dict(load_model(folder).state_dict())
    for name, value in dense.state_dict().items():  # what is not in a linear layer of a block stays as it was
        kept = value != 0
        assert torch.equal(value[kept], original[name][kept]), name
    assert type(model).from_pretrained(packed).eval()(**batch)[0].equal(outputs(model, batch))


@pytest.mark.parametrize("folder", list(KINDS), indirect=True)
def test_int8_values_calibrated_on_batches_are_saved_and_loaded(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    batch = inputs(model)
    ag.prune(model, method="best", sparsity=0.5, values="int8", calibration=[batch])
    dense = outputs(model, batch)
    ag.compress(model, values="int8")
    packed = outputs(model, batch)
    assert 0 < (packed - dense).norm() < 0.05 * dense.norm()  # activations are rounded too
    model.save_pretrained(tmp_path / "packed")
    assert torch.equal(outputs(load_model(tmp_path / "packed"), batch), packed)


@pytest.mark.parametrize("folder", list(KINDS), indirect=True)
def test_the_bench_makes_inputs_of_the_right_kind(folder: Path) -> None:
    config = BenchConfig(2, 12, rounds=2, training_steps=1, threads=1)
    subjects = [Subject(str(folder), ag.PruneConfig(sparsity=0.8))]
    dense, compressed = bench(subjects, config)
    assert len(dense.training_steps) == 1
    assert compressed.compressed
    assert compressed.file_bytes < dense.file_bytes


@pytest.mark.parametrize("length", [1, 10, 49])
def test_a_waveform_has_the_samples_of_this_number_of_frames(length: int) -> None:
    model = KINDS["hubert"][0]()
    assert outputs(model, random_batch(model, 2, length)).shape[:2] == (2, length)
    model.config = transformers.Wav2Vec2Config()  # 20 ms a frame, at 16,000 samples a second
    assert random_batch(model, 2, length)["input_values"].shape == (2, 400 + 320 * (length - 1))


def test_a_decoder_takes_at_most_its_positions() -> None:
    model = KINDS["whisper"][0]()
    batch = random_batch(model, 2, 12)
    assert batch["decoder_input_ids"].shape == (2, 12)
    assert batch["input_features"].shape == (2, model.config.num_mel_bins, 40)
    most = model.config.max_target_positions
    with pytest.raises(ModelError, match=f"{most + 1}.* {most} "):
        random_batch(model, 2, most + 1)


def test_a_model_whose_inputs_have_no_known_size_is_refused() -> None:
    model = transformers.ASTModel(transformers.ASTConfig(num_hidden_layers=1, hidden_size=24, num_attention_heads=2))
    with pytest.raises(ModelError, match=r"ASTModel .*input_values"):
        random_batch(model, 2, 12)
