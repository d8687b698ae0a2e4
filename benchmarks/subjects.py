"""The models to measure, at full size, pruned and saved in the formats of all runtimes.

`python subjects.py SPEC` writes a folder, so that the measured processes only load a model:

    dense/            the pruned model as an ordinary checkpoint
    packed/           the same, compressed by aerogel
    BATCH.onnx        the same with fixed shapes, in an opset that every runtime supports
    BATCH.npz         the input, and PyTorch's output
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from paused import Facts, serve
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    PreTrainedModel,
)

import aerogel as ag

SEQUENCE = 64
SEED = 0
OPSET = 14  # the newest that DeepSparse 1.8.0 supports
BART_BASE = BartConfig(
    d_model=768,
    encoder_layers=6,
    decoder_layers=6,
    encoder_attention_heads=12,
    decoder_attention_heads=12,
    encoder_ffn_dim=3072,
    decoder_ffn_dim=3072,
    use_cache=False,
)
ENCODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(BertConfig()),
    "gpt2": lambda: GPT2Model(GPT2Config(use_cache=False)),
    "bart": lambda: BartModel(BART_BASE),
    "minilm": lambda: ag.load("minilm")[0],
}
DECODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config()),
    "smollm2": lambda: ag.load("smollm2")[0],
}


def prepare(spec: Facts) -> Facts:
    """Build, prune and save a model."""
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(SEED)
    folder = Path(spec["folder"])
    model = (DECODERS if spec["decoder"] else ENCODERS)[spec["model"]]().eval()
    facts: Facts = {"prune_seconds": _prune(model, spec["sparsity"])}
    weights = ag.prunable_weights(model)
    kept = sum(int(weight.matrix.count_nonzero()) for weight in weights)
    facts["sparsity"] = 1 - kept / sum(weight.matrix.numel() for weight in weights)
    facts["prunable"] = [weight.name for weight in weights]
    model.save_pretrained(folder / "dense")
    for batch in spec.get("batches", ()):
        _write_onnx(folder, batch)
    facts["compress"] = _compress(model, folder)
    return facts


def is_packed(folder: Path) -> bool:
    """Whether any layer is packed; at 0% sparsity none is."""
    config = folder / "packed" / "config.json"
    return config.exists() and "quantization_config" in json.loads(config.read_text())


def file_bytes(path: Path) -> int:
    """Bytes of a file, or of a checkpoint's weights."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else path.stat().st_size


def _prune(model: PreTrainedModel, sparsity: float) -> float:
    started = time.perf_counter()
    if sparsity:
        ag.prune(model, method="magnitude", sparsity=sparsity, scope="layer")
    return time.perf_counter() - started


def _compress(model: PreTrainedModel, folder: Path) -> Facts:
    """Write `packed/`. After a failure the other runtimes are still measured."""
    try:
        started = time.perf_counter()
        ag.compress(model)
        seconds = time.perf_counter() - started
        model.save_pretrained(folder / "packed")
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    return {"seconds": seconds}


class _Positional(nn.Module):
    """A model for the ONNX export, with tensors as positional inputs and one output."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        return hidden


def _write_onnx(folder: Path, batch: int) -> None:
    """Write the input, PyTorch's output and the ONNX file for one batch size."""
    model = AutoModel.from_pretrained(folder / "dense")
    ids = torch.randint(10, model.config.vocab_size, (batch, SEQUENCE))
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        expected = _Positional(model)(ids, mask)
    np.savez(folder / f"{batch}.npz", input_ids=ids, attention_mask=mask, expected=expected)
    # eager attention: every runtime recognises it, and DeepSparse runs 99% of the model natively instead of 95%
    model.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about traced shapes, which are fixed on purpose
        torch.onnx.export(
            _Positional(model),
            (ids, mask),
            folder / f"{batch}.onnx",
            input_names=["input_ids", "attention_mask"],
            output_names=["hidden"],
            opset_version=OPSET,
            dynamo=False,
        )


if __name__ == "__main__":
    serve(lambda spec: (lambda: prepare(spec), lambda facts: facts))
