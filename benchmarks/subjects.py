"""The models to measure, pruned and saved in the formats of all runtimes.

`python subjects.py SPEC` writes a folder, so that the measured processes only load a model:

    dense/             the pruned model as an ordinary checkpoint
    packed/            the same, compressed by aerogel
    packed-int8/       the same with int8 values
    BATCH.onnx         the same with fixed shapes, in an opset that every runtime supports
    BATCH.npz          the input, and PyTorch's output
    calibration.npz    inputs for post-training quantization
    examples-*.npz     examples of a task with their labels, and PyTorch's output
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inputs
import numpy as np
import torch
from paused import Facts, serve
from runtimes import Array, Inputs
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2Model,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

import aerogel as ag
from aerogel.models import load_model
from aerogel.runtime import decompress

SEQUENCE = 64
OPSET = 14  # the newest that DeepSparse 1.8.0 supports
BATCH = 16  # of the examples of a task, which no process measures
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
DEBERTA_V3_BASE = DebertaV2Config(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    relative_attention=True,
    position_buckets=256,
    pos_att_type=["p2c", "c2p"],
    share_att_key=True,
    norm_rel_ebd="layer_norm",
    position_biased_input=False,
    type_vocab_size=0,
)
RANDOM: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(BertConfig()),
    "gpt2": lambda: GPT2Model(GPT2Config(use_cache=False)),
    "bart": lambda: BartModel(BART_BASE),
    "distilbert": lambda: DistilBertModel(DistilBertConfig()),
    "electra": lambda: ElectraModel(
        ElectraConfig(embedding_size=768, hidden_size=768, num_attention_heads=12, intermediate_size=3072)
    ),
    "mpnet": lambda: MPNetModel(MPNetConfig()),
    "xlm-r": lambda: XLMRobertaModel(XLMRobertaConfig()),
    "modernbert": lambda: ModernBertModel(ModernBertConfig()),
    "deberta-v3": lambda: DebertaV2Model(DEBERTA_V3_BASE),
    "t5": lambda: T5EncoderModel(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)),
}
ENCODERS = (*RANDOM, "minilm")


def prepare(spec: Facts) -> Facts:
    """Build, prune and save a model."""
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(inputs.SEED)
    folder = Path(spec["folder"])
    model = _model(spec).eval()
    facts: Facts = {"prune_seconds": _prune(model, spec["sparsity"], spec.get("pattern"))}
    weights = ag.prunable_weights(model)
    kept = sum(int(weight.matrix.count_nonzero()) for weight in weights)
    facts["sparsity"] = 1 - kept / sum(weight.matrix.numel() for weight in weights)
    model.save_pretrained(folder / "dense")
    batches, examples = _inputs(model, spec)
    for name, array in examples.items():
        np.savez(folder / f"examples-{name}.npz", **array)  # type: ignore[arg-type]
    _write_batches(model, folder, batches, spec)
    forms: dict[str, Any] = {"packed": None, "packed-int8": "int8"}
    facts["compress"] = {form: _compress(folder, form, forms[form]) for form in spec["files"] if form in forms}
    return facts


def file_bytes(path: Path) -> int:
    """Bytes of a checkpoint's weights, or of a model's file with the one for its weights if that is another."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in {path, path.with_suffix(".bin")} if file.exists())


def _model(spec: Facts) -> PreTrainedModel:
    if spec["model"] in RANDOM:
        return RANDOM[spec["model"]]()
    return decompress(load_model(spec["model"]))


def _prune(model: PreTrainedModel, sparsity: float, pattern: str | None) -> float:
    started = time.perf_counter()
    if sparsity:
        ag.prune(model, method="magnitude", sparsity=sparsity, scope="layer", pattern=pattern or "unstructured")
    return time.perf_counter() - started


def _compress(folder: Path, form: str, values: Any) -> Facts:
    """Write a packed form. After a failure the other runtimes are still measured."""
    try:
        model = load_model(str(folder / "dense"))
        started = time.perf_counter()
        ag.compress(model, values=values)
        seconds = time.perf_counter() - started
        model.save_pretrained(folder / form)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    return {"seconds": seconds}


def _inputs(model: PreTrainedModel, spec: Facts) -> tuple[Inputs, dict[str, Inputs]]:
    """Inputs for all batches and, after them, for calibration; and the examples of a task with their labels."""
    count = max(spec["batches"])
    if spec["model"] in RANDOM:
        return inputs.random_tokens(model.config.vocab_size, count + inputs.CALIBRATION, SEQUENCE), {}
    tokenizer = inputs.tokenizer_of(spec["model"])
    if "task" not in spec:
        return inputs.windows(tokenizer, count + inputs.CALIBRATION, SEQUENCE), {}
    data, length = Path(spec["data"]), spec["length"]
    scored = inputs.scored(spec["task"], data)
    examples = {name: inputs.sentences(tokenizer, content, length) for name, content in scored.items()}
    training = inputs.sentences(tokenizer, inputs.calibration(spec["task"], data), length)
    rows = {name: np.concatenate([array[:count], training[name]]) for name, array in examples["validation"].items()}
    labelled = {
        name: array | {"labels": np.array(scored[name].labels), "expected": _output(model, array)}
        for name, array in examples.items()
    }
    return rows, labelled


def _output(model: PreTrainedModel, arrays: Inputs) -> Array:
    """PyTorch's output, in batches."""
    tensors = [torch.from_numpy(array).split(BATCH) for array in arrays.values()]
    with torch.inference_mode():
        return np.concatenate(
            [_Positional(model, list(arrays))(*batch).numpy() for batch in zip(*tensors, strict=True)]
        )


def _write_batches(model: PreTrainedModel, folder: Path, rows: Inputs, spec: Facts) -> None:
    """Write the input, PyTorch's output and the ONNX file for each batch size, and the calibration's inputs."""
    first = max(spec["batches"])
    np.savez(folder / "calibration.npz", **{name: array[first:] for name, array in rows.items()})  # type: ignore[arg-type]
    expected = _output(model, {name: array[:first] for name, array in rows.items()})
    for batch in spec["batches"]:
        arrays = {name: array[:batch] for name, array in rows.items()}
        np.savez(folder / f"{batch}.npz", **arrays, expected=expected[:batch])  # type: ignore[arg-type]
    if "onnx" not in spec["files"]:
        return
    # eager attention: every runtime recognises it, and DeepSparse runs 99% of the model natively instead of 95%
    model.set_attn_implementation("eager")
    for batch in spec["batches"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about traced shapes, which are fixed on purpose
            torch.onnx.export(
                _Positional(model, list(rows)),
                tuple(torch.from_numpy(array[:batch]) for array in rows.values()),
                folder / f"{batch}.onnx",
                input_names=list(rows),
                output_names=["output"],
                opset_version=OPSET,
                dynamo=False,
            )


class _Positional(nn.Module):
    """A model with tensors as positional inputs and one output, as the ONNX export needs."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        first: Tensor = self.model(**dict(zip(self.names, tensors, strict=True)))[0]
        return first


if __name__ == "__main__":
    serve(lambda spec: (lambda: prepare(spec), lambda facts: facts))
