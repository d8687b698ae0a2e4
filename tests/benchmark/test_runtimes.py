"""Dense models in other runtimes, beside aerogel."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from aerogel.benchmark import RUNTIMES, BenchConfig, Subject, bench
from aerogel.benchmark.checkpoint import Checkpoint
from aerogel.benchmark.measure import _convert
from aerogel.benchmark.process import Worker
from aerogel.benchmark.runtimes import check_runtime
from aerogel.benchmark.subject import prepare
from aerogel.errors import AerogelError, AerogelWarning
from aerogel.pruning import PruneConfig

SMALL = BenchConfig(batch_size=2, sequence_length=8, rounds=3, training_steps=1, threads=1)
MISSING = [name for name, packages in RUNTIMES.items() if any(find_spec(package) is None for package in packages)]
installed = pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}")


def test_an_unknown_runtime_is_refused_with_similar_names() -> None:
    with pytest.raises(AerogelError, match="openvino-int8"):
        check_runtime("openvino-int4")


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_runtime_is_refused_before_anything_is_measured(name: str) -> None:
    with pytest.raises(AerogelError, match=rf"{name}.*pip install .*{RUNTIMES[name][-1]}"):
        bench([Subject("./nowhere")], SMALL, beside=[name])


def test_a_runtime_that_fails_is_a_warning_that_names_it(tmp_path: Path) -> None:
    gone = Checkpoint("gone", tmp_path / "dense", compressed=False, parameter_bytes=1, file_bytes=1)
    with pytest.warns(AerogelWarning, match=r"gone.*openvino-int8"):
        assert _convert([gone], ["openvino-int8"], (2, 8, 1, 0), "forkserver") == []


@installed
@pytest.mark.parametrize("model", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_a_model_is_also_measured_in_every_runtime(model: str) -> None:
    measured = bench([Subject(model, PruneConfig(sparsity=0.9))], SMALL, beside=list(RUNTIMES))
    dense, _, openvino, int8 = measured
    assert [entry.runtime for entry in measured] == [None, None, "openvino", "openvino-int8"]
    assert [row[0] for row in measured.rows()] == [model, *(f"{model}, {form}" for form in ("compressed", *RUNTIMES))]
    assert len(openvino.latencies) == len(int8.latencies) == len(dense.latencies)
    assert (int8.training_steps, int8.training_memory) == ((), None)
    assert int8.file_bytes < dense.file_bytes < openvino.file_bytes


@installed
@pytest.mark.parametrize(("runtime", "tolerance"), [("openvino", 0.02), ("openvino-int8", 0.1)])
def test_a_converted_model_computes_the_same(runtime: str, tolerance: float, tmp_path: Path) -> None:
    import numpy as np
    import openvino
    import torch

    from aerogel.models import load_model

    with Worker("tiny-bert", "forkserver", prepare, Subject("tiny-bert"), tmp_path, 1, 0) as worker:
        (dense,) = worker.receive()
    (converted,) = _convert([dense], [runtime], (2, 8, 1, 0), "forkserver")
    with np.load(converted.folder / "inputs.npz") as saved:
        inputs = dict(saved)
    compiled = openvino.Core().compile_model(converted.folder / "model.xml", "CPU")
    (result,) = compiled(list(inputs.values())).values()
    with torch.inference_mode():
        expected = load_model("tiny-bert")(**{name: torch.from_numpy(array) for name, array in inputs.items()})[0]
    assert np.linalg.norm(result - expected.numpy()) < tolerance * np.linalg.norm(expected)
