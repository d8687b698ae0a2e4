"""Measuring models in fresh processes."""

from pathlib import Path

import pytest

from aerogel.benchmark import BenchConfig, Subject, bench, environment
from aerogel.errors import ModelError
from aerogel.models import Head, load_model, save
from aerogel.pruning import PruneConfig

SMALL = BenchConfig(batch_size=2, sequence_length=8, rounds=4, training_steps=2, threads=1)


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_every_architecture_is_measured_with_its_own_head_and_a_classifier(model: str) -> None:
    subjects = [Subject(model), Subject(model, PruneConfig(sparsity=0.5), Head("classification", ("0", "1")))]
    for measured in bench(subjects, SMALL):
        assert len(measured.latencies) == 4
        assert len(measured.training_steps) == 2
        assert 0 < measured.median <= max(measured.latencies)
        assert measured.median <= measured.p90
        assert measured.throughput == pytest.approx(2 / measured.median)
        assert measured.training_memory >= measured.inference_memory > 0


def test_bytes_are_those_of_the_weights_and_the_file(tmp_path: Path) -> None:
    model = load_model("tiny-gpt2")
    save(model, None, tmp_path / "model")
    (measured,) = bench([Subject(str(tmp_path / "model"))], SMALL)
    assert measured.parameter_bytes == 4 * model.num_parameters()
    assert measured.file_bytes == (tmp_path / "model" / "model.safetensors").stat().st_size


def test_the_error_of_a_process_is_raised_here() -> None:
    with pytest.raises(ModelError, match="no such folder"):
        bench([Subject("tiny-gpt2"), Subject("./nowhere")], SMALL)


def test_a_sequence_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(ModelError, match="128 positions"):
        bench([Subject("tiny-gpt2")], BenchConfig(batch_size=1, sequence_length=200, rounds=1, training_steps=1))


def test_the_environment_names_machine_and_versions() -> None:
    found = environment()
    assert found["processor"]
    assert found["memory_gb"] > 0
    assert {"torch", "transformers", "aerogel"} <= set(found["versions"])
