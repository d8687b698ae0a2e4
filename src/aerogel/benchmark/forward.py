"""Times a model in memory in the runtime that it will be served in, for structured pruning to a speed-up."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel

from aerogel.benchmark.runtimes import ServedIn, check_runtime, in_one_sentence, silent, write_openvino
from aerogel.errors import AerogelError, unknown_name
from aerogel.pruning import PruneConfig, prune
from aerogel.runtime import compress
from aerogel.runtime.values import ValueChoice
from aerogel.structure.latency import Measure, TorchMeasure


def measure_in(runtime: ServedIn, pruning: PruneConfig | None = None, values: ValueChoice | None = None) -> Measure:
    """A measure of models served in `runtime`; in aerogel pruned as `pruning` says and packed with `values`.

    Raises `AerogelError` for another runtime, and for one that is not installed.
    """
    timing = TorchMeasure()
    if runtime == "torch":
        return timing
    if runtime == "aerogel":
        return PackedMeasure(timing, (pruning or PruneConfig(sparsity=0.0)).resolved(), values)
    if runtime != "openvino":
        raise AerogelError(unknown_name("runtime", runtime, ("torch", "aerogel", "openvino")))
    check_runtime(runtime)
    return OpenVINOMeasure(timing)


def default_measure(pruning: PruneConfig | None, values: ValueChoice | None) -> Measure:
    """A measure of models as they are served: packed if they have zeros or rounded values, else in PyTorch."""
    packs = values is not None or (pruning is not None and bool(pruning.sparsity))
    return measure_in("aerogel" if packs else "torch", pruning, values)


@dataclass(frozen=True)
class PackedMeasure:
    """Times a copy of the model, pruned by magnitude in each matrix and packed: the method does not change the time."""

    timing: TorchMeasure
    pruning: PruneConfig
    values: ValueChoice | None

    @property
    def name(self) -> str:
        runtime = f"aerogel {version('aerogel')}"
        return f"{runtime} {self.pruning.sparsity:g} {self.pruning.pattern} {self.values}, {self.timing.name}"

    def __call__(self, model: PreTrainedModel) -> float:
        packed = copy.deepcopy(model)
        if self.pruning.sparsity:
            pattern, targets, exclude = self.pruning.pattern, self.pruning.targets, self.pruning.exclude
            sparsity = self.pruning.sparsity
            prune(packed, PruneConfig("magnitude", sparsity, pattern, "layer", targets, exclude, allocation="uniform"))
        return self.timing(compress(packed, self.values))


@dataclass(frozen=True)
class OpenVINOMeasure:
    """Times the dense model in OpenVINO, in the precision that it chooses."""

    timing: TorchMeasure

    @property
    def name(self) -> str:
        return f"openvino, {self.timing.name}"

    def __call__(self, model: PreTrainedModel) -> float:
        import openvino

        inputs = self.timing.inputs(model)
        with TemporaryDirectory(prefix="aerogel-") as folder, in_one_sentence():
            with silent():
                write_openvino(copy.deepcopy(model), [inputs], Path(folder, "model.xml"), quantized=False)
            settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
            request = openvino.Core().compile_model(Path(folder, "model.xml"), "CPU", settings).create_infer_request()
            arrays = [tensor.numpy() for tensor in inputs.values()]
            request.infer(arrays)
            seconds = []
            for _ in range(self.timing.repeats):
                started = time.perf_counter()
                request.infer(arrays, share_inputs=True, share_outputs=True)
                seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)
