"""One runtime with one model, in a process that `harness.py` starts and measures.

Each runtime is configured for the lowest latency on a CPU as its documentation recommends. Timing starts with the input
in memory and ends when the output can be read as an array. `quantization.py` writes the models of the int8 runtimes.
"""

# mypy: disable-error-code="import-untyped,import-not-found"

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paused import Facts, serve

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]
Model = Callable[[Inputs], Array]


@dataclass(frozen=True)
class Runtime:
    """How to load a model, and from which file of a folder that `subjects.py` wrote, for one batch size.

    `dense` runtimes take as long for weights with zeros as for others.
    """

    load: Callable[[Path, int, int], Model]  # of the file, the batch size and the number of threads
    file: str
    dense: bool = True

    def path(self, folder: Path, batch: int) -> Path:
        return folder / self.file.format(batch=batch)


def is_packed(folder: Path) -> bool:
    """Whether any layer is packed; at 0% sparsity none is."""
    config = folder / "config.json"
    return config.exists() and "quantization_config" in json.loads(config.read_text())


def aerogel(path: Path, batch: int, threads: int) -> Model:
    import aerogel as ag
    from aerogel.models import load_model

    if path.exists() and not is_packed(path):  # no layer has enough zeros to pack, but blocks are fused
        return _torch(ag.compress(load_model(str(path))), threads)
    return _torch(load_model(str(path)), threads)


def torch_eager(path: Path, batch: int, threads: int) -> Model:
    from aerogel.models import load_model

    return _torch(load_model(str(path)), threads)


def torch_compile(path: Path, batch: int, threads: int) -> Model:
    import torch
    import torch._inductor.config

    from aerogel.models import load_model

    torch._inductor.config.freezing = True  # weights become constants in the layout of its kernels
    return _torch(torch.compile(load_model(str(path))), threads)


def onnxruntime(path: Path, batch: int, threads: int) -> Model:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def openvino(path: Path, batch: int, threads: int, precision: str | None = "f32") -> Model:
    import openvino

    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    actual = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if precision and actual != precision:
        raise RuntimeError(f"this processor has no {precision}: OpenVINO chose {actual}")
    request = compiled.create_infer_request()
    return lambda inputs: request.infer(inputs, share_inputs=True, share_outputs=True)[0]


def openvino_bfloat16(path: Path, batch: int, threads: int) -> Model:
    """OpenVINO's default where the processor has bfloat16."""
    return openvino(path, batch, threads, "bf16")


def openvino_int8(path: Path, batch: int, threads: int) -> Model:
    """What NNCF did not quantize runs in OpenVINO's default precision."""
    return openvino(path, batch, threads, None)


def deepsparse(path: Path, batch: int, threads: int) -> Model:
    from deepsparse import Engine

    engine = Engine(str(path), batch_size=batch, num_cores=threads)
    return lambda inputs: engine.run([inputs[name] for name in engine.input_names])[0]


RUNTIMES = {
    "aerogel": Runtime(aerogel, "packed", dense=False),
    "aerogel int8": Runtime(aerogel, "packed-int8", dense=False),
    "torch": Runtime(torch_eager, "dense"),
    "torch.compile": Runtime(torch_compile, "dense"),
    "onnxruntime": Runtime(onnxruntime, "{batch}.onnx"),
    "onnxruntime int8": Runtime(onnxruntime, "{batch}-dynamic.onnx"),
    "openvino": Runtime(openvino, "{batch}.onnx"),
    "openvino bfloat16": Runtime(openvino_bfloat16, "{batch}.onnx"),
    "openvino int8": Runtime(openvino_int8, "{batch}-nncf.xml"),
    "deepsparse": Runtime(deepsparse, "{batch}.onnx", dense=False),
    "deepsparse int8": Runtime(deepsparse, "{batch}-static.onnx", dense=False),
}


def prepare(spec: Facts) -> tuple[Callable[[], Array], Callable[[Array], Facts]]:
    folder, batch = Path(spec["folder"]), spec["batch"]
    runtime = RUNTIMES[spec["runtime"]]
    with np.load(folder / f"{batch}.npz") as saved:
        inputs = dict(saved)
    expected = inputs.pop("expected")
    model = runtime.load(runtime.path(folder, batch), batch, spec["threads"])

    def examine(result: Array) -> Facts:
        error = float(np.linalg.norm(result - expected) / np.linalg.norm(expected))
        return {"relative_error": error, **_scores(model, folder, batch)}

    return lambda: model(inputs), examine


def _scores(model: Model, folder: Path, batch: int) -> Facts:
    """Accuracy on each file of examples in the folder, and the KL divergence from PyTorch's predictions in nats."""
    facts: Facts = {}
    for path in sorted(folder.glob("examples-*.npz")):
        with np.load(path) as saved:
            inputs = dict(saved)
        labels, expected = inputs.pop("labels"), inputs.pop("expected")
        starts = range(0, len(labels), batch)
        rows = [np.minimum(np.arange(start, start + batch), len(labels) - 1) for start in starts]  # the last repeats
        logits = np.concatenate([model({name: array[row] for name, array in inputs.items()}).copy() for row in rows])
        predicted, reference = _log_softmax(logits[: len(labels)]), _log_softmax(expected)
        facts[path.stem.removeprefix("examples-")] = {
            "accuracy": float((predicted.argmax(-1) == labels).mean()),
            "kl": float((np.exp(reference) * (reference - predicted)).sum(-1).mean()),
        }
    return {"scores": facts} if facts else {}


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _torch(model: Callable[..., Any], threads: int) -> Model:
    import torch

    torch.set_num_threads(threads)

    def run(inputs: Inputs) -> Array:
        # a frozen torch.compile does not support inference_mode; no_grad takes the same time
        with torch.no_grad():
            first: Array = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})[0].numpy()
            return first

    return run


if __name__ == "__main__":
    serve(prepare)
