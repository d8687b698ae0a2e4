"""One runtime with one model, in a process that `encoders.py` starts and measures.

Each runtime is configured for the lowest latency on a CPU as its documentation recommends, in float32 (by default
OpenVINO uses bfloat16 on processors that support it). Timing starts with the input in memory and ends when the output
can be read as an array.
"""

# mypy: disable-error-code="import-untyped,import-not-found"

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from paused import Facts, serve

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]
Run = Callable[[], Array]


def aerogel(folder: Path, batch: int, inputs: Inputs, threads: int) -> Run:
    from subjects import is_packed
    from transformers import AutoModel

    import aerogel as ag

    if is_packed(folder):
        return _torch(AutoModel.from_pretrained(folder / "packed"), inputs, threads)
    return _torch(ag.compress(AutoModel.from_pretrained(folder / "dense")), inputs, threads)


def torch_eager(folder: Path, batch: int, inputs: Inputs, threads: int) -> Run:
    return _torch(_dense(folder), inputs, threads)


def torch_compile(folder: Path, batch: int, inputs: Inputs, threads: int) -> Run:
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True  # weights become constants in the layout of its kernels
    return _torch(torch.compile(_dense(folder)), inputs, threads)


def torch_csr(folder: Path, batch: int, inputs: Inputs, threads: int) -> Run:
    """PyTorch's CSR matrices, in their fastest form: the weight times the activations."""
    from torch import Tensor, nn

    import aerogel as ag

    class CsrLinear(nn.Module):
        def __init__(self, weight: Tensor, bias: Tensor) -> None:
            super().__init__()
            self.weight, self.bias = weight.to_sparse_csr(), bias[:, None]

        def forward(self, x: Tensor) -> Tensor:
            columns = x.flatten(0, -2).T.contiguous()
            return (self.weight @ columns).add_(self.bias).T.unflatten(0, x.shape[:-1])

    model = _dense(folder)
    for weight in ag.prunable_weights(model):
        model.set_submodule(weight.name, CsrLinear(weight.matrix, weight.module.get_parameter("bias").detach()))
    return _torch(model, inputs, threads)


def onnxruntime(folder: Path, batch: int, inputs: Inputs, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / f"{batch}.onnx", options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0]


def openvino(folder: Path, batch: int, inputs: Inputs, threads: int, **more: Any) -> Run:
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(folder / f"{batch}.onnx", "CPU", settings | more).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)[0]


def openvino_sparse(folder: Path, batch: int, inputs: Inputs, threads: int) -> Run:
    """OpenVINO with its option for sparse weights, which has an effect only for int8 on AMX."""
    return openvino(folder, batch, inputs, threads, CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE=0.4)


def deepsparse(folder: Path, batch: int, inputs: Inputs, threads: int) -> Run:
    from deepsparse import Engine

    engine = Engine(str(folder / f"{batch}.onnx"), batch_size=batch, num_cores=threads)
    arrays = [inputs[name] for name in engine.input_names]
    return lambda: engine.run(arrays)[0]


RUNTIMES = {
    "aerogel": aerogel,
    "torch": torch_eager,
    "torch.compile": torch_compile,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino sparse": openvino_sparse,
    "torch csr": torch_csr,
    "deepsparse": deepsparse,
}


def prepare(spec: Facts) -> tuple[Run, Callable[[Array], Facts]]:
    folder, batch = Path(spec["folder"]), spec["batch"]
    with np.load(folder / f"{batch}.npz") as saved:
        inputs = {name: saved[name] for name in ("input_ids", "attention_mask")}
    run = RUNTIMES[spec["runtime"]](folder, batch, inputs, spec["threads"])
    return run, lambda result: _examine(result, folder / f"{batch}.npz")


def _examine(result: Array, path: Path) -> Facts:
    """The largest error to PyTorch with the dense pruned model, and the relative error in norm."""
    expected = np.load(path)["expected"]
    difference = result - expected
    return {
        "largest_error": float(np.abs(difference).max()),
        "relative_error": float(np.linalg.norm(difference) / np.linalg.norm(expected)),
    }


def _dense(folder: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder / "dense")


def _torch(model: Callable[..., Any], inputs: Inputs, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}

    def run() -> Array:
        # a frozen torch.compile does not support inference_mode; no_grad takes the same time
        with torch.no_grad():
            hidden: Array = model(**tensors)[0].numpy()
            return hidden

    return run


if __name__ == "__main__":
    serve(prepare)
