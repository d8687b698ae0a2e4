"""The decoders that `decoding.py` measures, in the formats of all runtimes.

`python decoders.py SPEC` writes a folder of the dense model:

    float32/        an ordinary checkpoint
    bfloat16/       the same in bfloat16
    F32.gguf        the same for llama.cpp; `llama.py` quantizes it
    windows.npy     token ids of text, (windows, tokens)

or, with a sparsity, of the pruned one:

    dense/          an ordinary checkpoint
    float32/        the same, compressed by aerogel
    int8/           the same with int8 values
    int8, head too/ the same with the language-model head in int8

SmolLM2 is pruned by `best`, and rounded, with calibration text and without any training afterwards. GPT-2 has random
weights and is pruned by magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import inputs
import numpy as np
import torch
from gguf_file import write_gguf
from paused import Facts, serve
from runtimes import Array
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

import aerogel as ag
from aerogel.models import load_model
from aerogel.tasks import load_task
from aerogel.tasks.encode import WINDOW, language_windows

TEXT = "python-reference"
DECODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "smollm2": lambda: load_model("smollm2"),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config()),
}
RANDOM = ("gpt2",)
FORMS: dict[str, dict[str, Any]] = {  # arguments of `ag.compress`
    "float32": {},
    "int8": {"values": "int8"},
    "int8, head too": {"values": "int8", "head_values": "int8"},
}


def prepare(spec: Facts) -> Facts:
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(inputs.SEED)
    (_write_pruned if "dense" in spec else _write_dense)(spec, Path(spec["folder"]))
    return {}


def _write_dense(spec: Facts, folder: Path) -> None:
    model = DECODERS[spec["model"]]()
    np.save(folder / "windows.npy", _windows(spec["model"], model))
    write_gguf(model, folder / "F32.gguf")
    model.save_pretrained(folder / "float32")
    model.to(torch.bfloat16).save_pretrained(folder / "bfloat16")


def _windows(name: str, model: PreTrainedModel) -> Array:
    """The validation split as `aerogel evaluate` reads it. For random weights no text is better than another."""
    if name in RANDOM:
        return inputs.random_tokens(model.config.vocab_size, 1, WINDOW)["input_ids"]
    rows = language_windows(load_task(TEXT).split("validation"), inputs.tokenizer_of(name), model.config, inputs.SEED)
    return np.stack([row["input_ids"].numpy() for row in rows])


def _write_pruned(spec: Facts, folder: Path) -> None:
    text = None
    if spec["model"] not in RANDOM:
        text = ag.calibration(TEXT, inputs.tokenizer_of(spec["model"]))
    method = {"method": "best", "calibration": text} if text else {"method": "magnitude", "scope": "layer"}
    model = load_model(spec["dense"])
    if spec["sparsity"]:
        ag.prune(model, sparsity=spec["sparsity"], pattern=spec["pattern"], **method)
    model.save_pretrained(folder / "dense")
    for form, arguments in FORMS.items():
        model = load_model(str(folder / "dense"))
        if text and "values" in arguments:
            ag.prune(model, sparsity=0, values=arguments["values"], calibration=text)
        ag.compress(model, **arguments)
        model.save_pretrained(folder / form)


if __name__ == "__main__":
    serve(lambda spec: (lambda: prepare(spec), lambda facts: facts))
