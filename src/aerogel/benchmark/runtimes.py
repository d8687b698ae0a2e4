"""Other runtimes to measure a dense model in: OpenVINO, in the precision that it chooses and in int8.

OpenVINO reads the model through its frontend for PyTorch. NNCF quantizes it after training, calibrated on random
tokens. The time does not depend on the calibration, the accuracy does: for that, calibrate on real text.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from aerogel.benchmark.checkpoint import WARM_UP, Checkpoint
from aerogel.errors import AerogelError, expect, first_line, unknown_name

RUNTIMES = {"openvino": ("openvino",), "openvino-int8": ("openvino", "nncf")}
"""Other runtimes that `bench` can measure, and the packages that each needs."""
CALIBRATION = 64  # sequences
ServedIn = Literal["torch", "aerogel", "openvino"]  # the runtimes in which structured pruning measures speed


def check_runtime(name: str) -> str:
    """Return the name. Raises `AerogelError` for an unknown runtime, and for one whose packages are not installed."""
    expect(name, str, AerogelError, "the name of a runtime")
    if name not in RUNTIMES:
        raise AerogelError(unknown_name("runtime", name, RUNTIMES))
    missing = [package for package in RUNTIMES[name] if find_spec(package) is None]
    if missing:
        raise AerogelError(f"runtime {name} needs packages that are not installed: pip install {' '.join(missing)}")
    return name


def convert(
    connection: Connection, dense: Checkpoint, runtime: str, folder: Path, settings: tuple[int, int, int, int]
) -> None:
    """Write the dense checkpoint for the runtime, with its inputs, and send the checkpoint to measure.

    `settings` are the batch size, the sequence length, the number of threads and the seed.
    """
    import numpy as np
    import torch

    from aerogel import models
    from aerogel.benchmark.inputs import inference_inputs, random_batch

    batch_size, length, threads, seed = settings
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    with in_one_sentence(), silent():
        model = models.load_model(str(dense.folder))
        batches = [
            inference_inputs(model, random_batch(model, batch_size, length))
            for _ in range(-(-CALIBRATION // batch_size))
        ]
        folder.mkdir()
        np.savez(folder / "inputs.npz", **batches[0])  # type: ignore[arg-type]
        write_openvino(model, batches, folder / "model.xml", quantized=runtime == "openvino-int8")
    weights, graph = ((folder / f"model.{suffix}").stat().st_size for suffix in ("bin", "xml"))
    measured = replace(
        dense, folder=folder, runtime=runtime, parameter_bytes=weights, file_bytes=weights + graph, trains=False
    )
    connection.send(("done", measured))


def serve_runtime(connection: Connection, checkpoint: Checkpoint, threads: int) -> None:
    """Load what `convert` wrote, run it once, then time one inference per request until "stop".

    The reply to a request is its seconds and the peak memory so far, above that of the process before loading.
    """
    import numpy as np
    import openvino

    from aerogel.benchmark.machine import peak_memory

    baseline = peak_memory()
    with in_one_sentence():
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(checkpoint.folder / "model.xml", "CPU", settings)
        request = compiled.create_infer_request()
        with np.load(checkpoint.folder / "inputs.npz") as saved:
            inputs = list(saved.values())
        request.infer(inputs)
    connection.send(("done", None))
    seconds = WARM_UP
    while connection.recv() != "stop":
        for _ in range(2 if seconds < WARM_UP else 1):  # the last one counts
            started = time.perf_counter()
            request.infer(inputs, share_inputs=True, share_outputs=True)
            seconds = time.perf_counter() - started
        connection.send(("done", (seconds, peak_memory() - baseline)))


def write_openvino(model: Any, batches: list[dict[str, Any]], path: Path, quantized: bool) -> None:
    """Write the model with the shapes of `batches`, and one output, the first of the model."""
    import openvino
    import torch

    names = list(batches[0])

    class FirstOutput(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            first: torch.Tensor = self.model(**dict(zip(names, tensors, strict=True)))[0]
            return first

    model.config.use_cache = False  # tracing supports tensors only
    example = tuple(batches[0].values())
    with torch.no_grad():
        converted = openvino.convert_model(
            FirstOutput().eval(), example_input=example, input=[list(tensor.shape) for tensor in example]
        )
    if quantized:
        import nncf

        data = nncf.Dataset([[tensor.numpy() for tensor in batch.values()] for batch in batches])
        converted = nncf.quantize(converted, data, subset_size=len(batches), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(converted, path, compress_to_fp16=False)


@contextlib.contextmanager
def in_one_sentence() -> Iterator[None]:
    """Raise any error as an `AerogelError`: those of the runtime can't always be sent to another process."""
    try:
        yield
    except AerogelError:
        raise
    except Exception as error:
        raise AerogelError(f"{type(error).__name__}: {first_line(error)}") from None


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hide the warnings, logs and progress bars of the conversion, also those that are written by native code."""
    kept = [os.dup(stream) for stream in (1, 2)]
    try:
        with open(os.devnull, "w") as nothing:
            for stream in (1, 2):
                os.dup2(nothing.fileno(), stream)
        yield
    finally:
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)
