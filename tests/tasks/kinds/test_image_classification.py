"""Images: how they are read, and a small ViT that learns digits, is pruned, recovered, packed and compared."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from aerogel.errors import DataError, ModelError
from aerogel.evaluation import evaluate, score
from aerogel.models import load, load_tokenizer, save
from aerogel.pruning import Calibration, PruneConfig, prune
from aerogel.pruning.calibration import calibration
from aerogel.runtime import compress
from aerogel.tasks import TASKS, InputSettings, Task, TaskData, load_task
from aerogel.tasks.images import open_image
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.rows import Rows
from aerogel.training import GradualPruning, TrainingConfig, finetune

KIND = all_kinds()["image_classification"]
GREY = np.arange(30, dtype=np.uint8).reshape(5, 6)
LEARNING = dict(batch_size=16, learning_rate=2e-3, limit=800)


def png_of(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png")
    return stream.getvalue()


def read(*images: Any, source: str = "rows") -> list[np.ndarray]:
    rows = Rows(("image", "label"), [{"image": image, "label": n % 2} for n, image in enumerate(images)], source)
    _, contents = KIND.read(Task("own", "image_classification", labels=("no", "yes")), {"train": rows})
    assert contents["train"].labels == [number % 2 for number in range(len(images))]
    return [np.asarray(open_image(file, "L")) for file in contents["train"].files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT for images of 16 by 16 pixels, without a head."""
    path = tmp_path_factory.mktemp("models") / "vit"
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=16,
        patch_size=4,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def data() -> TaskData:
    return load_task("digits")


@pytest.fixture(scope="module")
def trained(folder: Path, data: TaskData) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model, processor = load(folder, data.task.head)
    finetune(model, processor, data, TrainingConfig(epochs=6, **LEARNING))
    return model, processor


def test_digits_are_whole_and_fair(data: TaskData) -> None:
    train, validation = data.split("train"), data.split("validation")
    assert len(train) + len(validation) == 1797
    assert 0.15 < len(validation) / 1797 < 0.25
    assert set(train.labels) == set(validation.labels) == set(range(10))
    assert not set(train.files) & set(validation.files)
    assert np.asarray(open_image(train.files[0], "L")).shape == (8, 8)
    assert data.task is TASKS["digits"]


def test_images_of_many_forms(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    path.write_bytes(png_of(GREY))
    forms = [
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("CMYK").convert("L"),
        GREY,
        GREY[..., None].astype(int),
        GREY.tolist(),
        path.read_bytes(),
        str(path),
        path,
        {"bytes": path.read_bytes(), "path": "no.png"},
        {"bytes": None, "path": str(path)},
    ]
    found = read(*forms)
    for number in (0, *range(2, len(forms))):
        assert np.array_equal(found[number], GREY), number
    assert np.array_equal(read("grey.png", source=str(tmp_path / "list.csv"))[0], GREY)
    assert read(Image.fromarray(GREY).convert("CMYK"))[0].shape == (5, 6)


@pytest.mark.parametrize(
    ("image", "wrong"),
    [
        ("no.png", "no.png"),
        ("", "''"),
        (3, "3"),
        (b"GIF", "GIF"),
        (None, "None"),
        ([[1], [1, 2]], "rows"),
        (np.zeros((2, 2)), "float64"),
        (np.zeros((3, 8, 8), int), "(3, 8, 8)"),
        (np.full((2, 2), 300), "255"),
        (np.zeros((0, 2), int), "(0, 2)"),
    ],
)
def test_what_is_not_an_image_is_refused_with_its_place(image: Any, wrong: str) -> None:
    with pytest.raises(DataError, match="row 2, column image: ") as error:
        read(GREY, image)
    assert wrong in str(error.value)


def test_a_damaged_file_is_refused_when_it_is_read(folder: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    rows = Rows(("image", "label"), [{"image": png_of(large)[:-300], "label": 1}], "rows")
    _, contents = KIND.read(TASKS["digits"], {"train": rows})
    with pytest.raises(DataError, match="image"):
        open_image(contents["train"].files[0], "RGB")


def test_a_file_of_paths_is_of_this_kind(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of(GREY))
    rows = [{"image": "a.png", "label": label} for label in ("cat", "dog", "cat")]
    (tmp_path / "pets.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    loaded = load_task(tmp_path / "pets.jsonl")
    assert (loaded.task.kind_name, loaded.task.labels) == ("image_classification", ("cat", "dog"))


def test_inputs_are_pixels(folder: Path, data: TaskData) -> None:
    model, processor = load(folder, data.task.head)
    content = data.split("train")
    inputs = KIND.inputs(content, processor, model.config, InputSettings(limit=5, batch_size=2))
    batch = inputs.collate([inputs.rows[row] for row in inputs.batches()[1]])
    assert batch["pixel_values"].shape == (2, 3, 16, 16)
    assert batch["labels"].tolist() == content.labels[2:4]
    grey = copy.deepcopy(model.config)
    grey.num_channels = 1
    processor.image_mean, processor.image_std = [0.5], [0.5]
    assert KIND.inputs(content, processor, grey, InputSettings(limit=1)).rows[0]["pixel_values"].shape == (1, 16, 16)
    rows = KIND.calibration_rows(content, load_tokenizer(folder), model, InputSettings(7))
    assert len(rows) == 7
    assert all(set(row) == {"pixel_values"} for row in rows)


def test_a_model_learns_and_is_pruned_compared_and_recovered(data: TaskData, trained: tuple[Any, Any]) -> None:
    model, processor = trained
    assert score(model, processor, data).metrics["accuracy"] > 0.8
    sparse = copy.deepcopy(model)
    prune(sparse, method="wanda", sparsity=0.8, calibration=calibration("digits", processor, samples=32))
    before = evaluate(sparse, processor, data, reference=model)["digits"]
    assert before["kl"] > 0.01
    assert before["flipped"] == round((1 - before["agreement"]) * before["examples"])
    zeros = {name: weight == 0 for name, weight in sparse.named_parameters() if "layer" in name and weight.dim() == 2}
    finetune(sparse, processor, data, TrainingConfig(epochs=2, **LEARNING), teacher=model)
    assert evaluate(sparse, processor, data, reference=model)["digits"]["kl"] < before["kl"]
    assert all((dict(sparse.named_parameters())[name][mask] == 0).all() for name, mask in zeros.items())


def test_pruning_while_training_for_int8(data: TaskData, trained: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = copy.deepcopy(trained[0]), trained[1]
    finetune(
        model,
        processor,
        data,
        TrainingConfig(epochs=4, **LEARNING),
        sparsity=GradualPruning(PruneConfig("best", 0.6)),
        teacher=trained[0],
        values="int8",
    )
    dense = score(model, processor, data)
    save(compress(model, values="int8"), processor, tmp_path / "packed")
    packed = score(*load(tmp_path / "packed"), data)
    assert packed.metrics["accuracy"] > 0.8
    assert packed.metrics["accuracy"] == pytest.approx(dense.metrics["accuracy"], abs=0.05)


def test_a_tokenizer_in_the_processors_place_is_refused(data: TaskData, trained: tuple[Any, Any]) -> None:
    tokenizer = load_tokenizer("tiny-bert")
    for action in (evaluate, finetune):
        with pytest.raises(ModelError, match="image processor"):
            action(trained[0], tokenizer, data)
    model, _ = load("tiny-bert")
    with pytest.raises(ModelError, match="tokenizer"):
        evaluate(model, trained[1], "python-reference")
    assert Calibration(data, trained[1], 4, at_most=True).batches(trained[0])[0]["pixel_values"].shape[0] == 1
