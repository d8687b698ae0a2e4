"""The models of the int8 runtimes, as their users quantize them, in a process that ends before anything is measured.

openvino int8       post-training quantization by NNCF for transformers, calibrated
onnxruntime int8    dynamic: activations are quantized at run time, nothing is calibrated
deepsparse int8     static, calibrated; DeepSparse's planner fails on dynamic quantization
"""

# mypy: disable-error-code="import-untyped,import-not-found"

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from paused import Facts, serve
from runtimes import RUNTIMES, Inputs

BATCHES = 4  # of calibration, at least


def openvino(source: Path, path: Path, calibration: list[Inputs]) -> None:
    import nncf
    from openvino import Core, save_model

    data = nncf.Dataset(calibration)
    quantized = nncf.quantize(
        Core().read_model(source), data, subset_size=len(calibration), model_type=nncf.ModelType.TRANSFORMER
    )
    save_model(quantized, path, compress_to_fp16=False)


def onnxruntime(source: Path, path: Path, calibration: list[Inputs]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)


def deepsparse(source: Path, path: Path, calibration: list[Inputs]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, batches: Iterator[Inputs]) -> None:
            self.batches = batches

        def get_next(self) -> Inputs | None:
            return next(self.batches, None)

    graph = onnx.load(source).graph
    constants = {tensor.name for tensor in graph.initializer}
    quantize_static(
        source,
        path,
        Reader(iter(calibration)),
        quant_format=QuantFormat.QOperator,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=[node.name for node in graph.node if constants.intersection(node.input)],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


QUANTIZERS: dict[str, Callable[[Path, Path, list[Inputs]], None]] = {
    "openvino int8": openvino,
    "onnxruntime int8": onnxruntime,
    "deepsparse int8": deepsparse,
}


def quantize(spec: Facts) -> Facts:
    """Write the file of one runtime for one batch size, unless it is there already."""
    folder, batch = Path(spec["folder"]), spec["batch"]
    path = RUNTIMES[spec["runtime"]].path(folder, batch)
    if path.exists():
        return {}
    with np.load(folder / "calibration.npz") as saved:
        inputs = dict(saved)
    count = max(BATCHES, len(inputs["input_ids"]) // batch)
    rows = [np.arange(start * batch, (start + 1) * batch) % len(inputs["input_ids"]) for start in range(count)]
    calibration = [{name: array[row] for name, array in inputs.items()} for row in rows]
    QUANTIZERS[spec["runtime"]](folder / f"{batch}.onnx", path, calibration)
    return {}


if __name__ == "__main__":
    serve(lambda spec: (lambda: quantize(spec), lambda facts: facts))
