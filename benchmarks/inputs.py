"""The inputs that models are measured, calibrated and scored on, as arrays of one length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from runtimes import Inputs
from transformers import PreTrainedTokenizerBase

import aerogel as ag
from aerogel.tasks import Examples, load_task

SEED = 0
CALIBRATION = 256  # sequences for post-training quantization


def random_tokens(vocabulary: int, count: int, length: int) -> Inputs:
    """For random weights: no text is better than another."""
    ids = np.random.default_rng(SEED).integers(10, vocabulary, (count, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def windows(tokenizer: PreTrainedTokenizerBase, count: int, length: int) -> Inputs:
    """Windows of the reference of the Python language, for a pretrained model without a task."""
    text = load_task("python-reference").split("train")[: 10 * count * length]
    encoded = tokenizer(text, truncation=True, max_length=length, return_overflowing_tokens=True, return_tensors=None)
    rows = [row for row in zip(encoded["input_ids"], encoded["attention_mask"], strict=True) if len(row[0]) == length]
    ids, mask = (np.array(column) for column in zip(*rows[:count], strict=True))
    return {"input_ids": ids, "attention_mask": mask}


def sentences(tokenizer: PreTrainedTokenizerBase, examples: Examples, length: int) -> Inputs:
    """The sentences (or pairs) of examples, padded or cut to `length`."""
    columns = [list(column) for column in zip(*examples.texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, padding="max_length", max_length=length, return_tensors="np")
    return {name: array.astype(np.int64) for name, array in encoded.items()}


def scored(task: str, data: Path) -> dict[str, Examples]:
    """The validation split of a task, and `test.tsv` of its folder if it is there."""
    splits = {"validation": load_task(task, data).split("validation")}
    test = data / task / "test.tsv"
    if test.exists():
        splits["test"] = load_task(test).split("train")
    return splits


def calibration(task: str, data: Path) -> Examples:
    """Training sentences, for post-training quantization."""
    train = load_task(task, data).split("train")
    order = np.random.default_rng(SEED).permutation(len(train))[:CALIBRATION].tolist()
    return Examples([train.texts[index] for index in order], [train.labels[index] for index in order])


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = ag.load(name)[1]
    return tokenizer
