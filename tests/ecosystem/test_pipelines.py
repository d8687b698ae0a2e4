"""transformers' pipelines with packed folders: the same answers as with the dense pruned model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModel, PreTrainedModel, pipeline

import aerogel as ag
from aerogel.models import load, save
from aerogel.runtime.layers import sparse_layers
from tiny import tiny_config, tiny_model

TEXT, OTHER = "The film was a <mask> from the start.", "A short one."
WHOLE: Any = dict(device="cpu", dtype=torch.float32)
LABELS = ["good", "bad", "neither"]


def with_head(name: str, factory: Any, labels: list[str]) -> Any:
    """A zoo model with a new head."""
    torch.manual_seed(0)
    body, tokenizer = load(name)
    names = dict(enumerate(labels))
    config = AutoConfig.from_pretrained(body.name_or_path, id2label=names, label2id={v: k for k, v in names.items()})
    return factory.from_pretrained(body.name_or_path, config=config, dtype=torch.float32), tokenizer


CASES: dict[str, Any] = {
    "text-classification": lambda: with_head("tiny-bert", transformers.AutoModelForSequenceClassification, LABELS),
    "token-classification": (
        lambda: with_head("tiny-bert", transformers.AutoModelForTokenClassification, ["O", "B-PER", "I-PER"])
    ),
    "zero-shot-classification": (
        lambda: with_head("tiny-bert", transformers.AutoModelForSequenceClassification, ["contradiction", "entailment"])
    ),
    "fill-mask": lambda: load("tiny-bert"),
    "feature-extraction": lambda: with_head("tiny-bert", AutoModel, LABELS),
    "text-generation": lambda: load("tiny-gpt2"),
}
CALLS: dict[str, Any] = {
    "text-classification": dict(top_k=None),
    "token-classification": dict(aggregation_strategy="simple"),
    "zero-shot-classification": dict(candidate_labels=LABELS),
    "fill-mask": dict(),
    "feature-extraction": dict(),
    "text-generation": dict(max_new_tokens=5, do_sample=False),
}


def same(one: Any, other: Any) -> bool:
    """Equal, and numbers equal within rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(np.isclose(one, other, atol=1e-4)) if isinstance(one, float | np.floating) else bool(one == other)


def packed_folder(model: PreTrainedModel, processor: Any, folder: Path) -> str:
    if isinstance(processor, transformers.PreTrainedTokenizerBase):
        save(ag.compress(model), processor, folder)
    else:
        ag.compress(model).save_pretrained(folder)
        processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("task", CASES)
def test_text(task: str, tmp_path: Path) -> None:
    model, tokenizer = CASES[task]()
    ag.prune(model, sparsity=0.6)
    text = TEXT if task == "fill-mask" else TEXT.replace("<mask>", "joy")
    texts = [text.replace("<mask>", tokenizer.mask_token or ""), *([] if task == "fill-mask" else [OTHER])]
    dense = pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
    expected = [dense(texts, batch_size=size, **CALLS[task]) for size in (1, 2)]
    packed = pipeline(task, model=packed_folder(model, tokenizer, tmp_path / "packed"), **WHOLE)
    assert sparse_layers(packed.model)
    assert type(packed.model) is type(model)
    assert same([packed(texts, batch_size=size, **CALLS[task]) for size in (1, 2)], expected)


@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_images(task: str, tmp_path: Path) -> None:
    config = tiny_config(transformers.ViTConfig, num_labels=3)
    factory = transformers.ViTForImageClassification if task == "image-classification" else transformers.ViTModel
    model = tiny_model(factory, config)
    ag.prune(model, sparsity=0.6)
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    pixels = np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3), dtype=np.uint8)
    images = [Image.fromarray(image) for image in pixels]
    expected = pipeline(task, model=model, image_processor=processor, device="cpu")(images)
    packed = pipeline(task, model=packed_folder(model, processor, tmp_path / "packed"), **WHOLE)
    assert sparse_layers(packed.model)
    assert same(packed(images), expected)
