"""Benchmarks of models in fresh processes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from aerogel.benchmark import BenchConfig, Subject, bench, environment
from aerogel.errors import AerogelError, ModelError
from aerogel.models import Head, load_model, prunable_weights, save
from aerogel.pruning import PruneConfig, prune
from aerogel.runtime import compress
from aerogel.runtime.writing import pack
from aerogel.tables import latency

SMALL = BenchConfig(batch_size=2, sequence_length=8, rounds=4, training_steps=2, threads=1)


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_every_architecture_is_measured_with_its_own_head_and_a_classifier(model: str) -> None:
    subjects = [Subject(model), Subject(model, PruneConfig(sparsity=0.1), Head("classification", ("0", "1")))]
    for measured in bench(subjects, SMALL):
        assert len(measured.latencies) == 4
        assert len(measured.training_steps) == 2
        assert 0 < measured.median <= max(measured.latencies)
        assert measured.median <= measured.p90
        assert measured.throughput == pytest.approx(2 / measured.median)
        assert measured.training_memory
        assert measured.training_memory >= measured.inference_memory > 0


def test_a_pruned_model_is_also_measured_compressed() -> None:
    subjects = [Subject("tiny-bart", trains=False), Subject("tiny-bart", PruneConfig(sparsity=0.9))]
    dense, pruned, compressed = measurements = bench(subjects, SMALL)
    assert [bool(entry.training_memory) for entry in measurements] == [False, True, False]
    assert [entry.compressed for entry in (dense, pruned, compressed)] == [False, False, True]
    assert pruned.parameter_bytes == dense.parameter_bytes > compressed.parameter_bytes
    assert pruned.file_bytes == dense.file_bytes > compressed.file_bytes
    assert len(compressed.latencies) == len(dense.latencies)
    html = measurements._repr_html_()
    assert html.count("<tr>") == 4
    assert latency(dense.median) in html
    assert (compressed.training_steps, compressed.training_median, compressed.training_memory) == ((), None, None)


def test_a_dense_model_is_also_measured_in_int8() -> None:
    dense, packed = bench([Subject("tiny-bert", values="int8")], SMALL)
    assert [entry.compressed for entry in (dense, packed)] == [False, True]
    weights = sum(weight.matrix.numel() for weight in prunable_weights(load_model("tiny-bert")))
    assert dense.parameter_bytes - packed.parameter_bytes > 2 * weights  # of four bytes each


def test_a_packed_folder_is_measured_dense_and_compressed(tmp_path: Path) -> None:
    model = load_model("tiny-bert")
    prune(model, PruneConfig(sparsity=0.9))
    save(compress(model), None, tmp_path / "packed")
    dense, compressed = bench([Subject(str(tmp_path / "packed"))], SMALL)
    assert not dense.compressed
    assert dense.training_steps
    assert compressed.compressed
    assert compressed.file_bytes == (tmp_path / "packed" / "model.safetensors").stat().st_size
    held = (*model.parameters(), *model.buffers())
    assert compressed.parameter_bytes == sum(tensor.nbytes for tensor in held) < dense.parameter_bytes


def test_a_model_without_a_padding_token_is_measured_with_a_classifier(tmp_path: Path) -> None:
    model = load_model("tiny-gpt2")
    model.config.pad_token_id = None
    save(model, None, tmp_path / "model")
    (measured,) = bench([Subject(str(tmp_path / "model"), head=Head("classification", ("0", "1")))], SMALL)
    assert len(measured.training_steps) == 2


@pytest.mark.parametrize("values", [{"values": "bfloat16"}, {"values": "int8", "head_values": "int8"}], ids=str)
def test_the_types_of_packed_values_are_kept(values: Any, tmp_path: Path) -> None:
    model = load_model("tiny-bert")
    prune(model, PruneConfig(sparsity=0.9))
    save(compress(model, **values), None, tmp_path / "packed")
    _, compressed = bench([Subject(str(tmp_path / "packed"))], SMALL)
    assert compressed.parameter_bytes == sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize(("batch", "length"), [(10**12, 8), (2**40, 128)])
def test_running_out_of_memory_is_an_error_in_one_sentence(batch: int, length: int) -> None:
    with pytest.raises(AerogelError, match=r"tiny-bert.*memory"):
        bench([Subject("tiny-bert")], BenchConfig(batch, length, rounds=1, training_steps=0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 10**30),
        ("batch_size", 0),
        ("sequence_length", 2**21),
        ("rounds", 0),
        ("threads", 10**9),
        ("seed", -1),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(AerogelError, match=f"{field.replace('_', ' ')} {value}"):
        BenchConfig(**{field: value})


def test_sizes_are_those_of_the_weights_and_the_file(tmp_path: Path) -> None:
    model = load_model("tiny-gpt2")
    save(model, None, tmp_path / "model")
    (measured,) = bench([Subject(str(tmp_path / "model"))], SMALL)
    assert measured.parameter_bytes == 4 * model.num_parameters()
    assert measured.file_bytes == (tmp_path / "model" / "model.safetensors").stat().st_size


def test_files_have_the_dtypes_of_the_models_own(tmp_path: Path) -> None:
    model = load_model("tiny-bert", dtype="auto")
    assert model.dtype == torch.float16
    prune(model, PruneConfig(sparsity=0.9))
    save(model, None, tmp_path / "pruned")
    pack(str(tmp_path / "pruned"), tmp_path / "packed")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("pruned", "packed")]
    for name in ("pruned", "packed"):
        measured = bench([Subject(str(tmp_path / name))], SMALL)
        assert [entry.file_bytes for entry in measured] == pytest.approx(sizes, abs=64)  # up to the length of offsets
        assert measured[0].parameter_bytes > 4 * model.num_parameters()  # it runs in float32
        assert [row[0].partition(", ")[2] for row in measured.rows()] == ["run dense", "compressed"]


def test_the_error_of_a_process_is_raised_here() -> None:
    with pytest.raises(ModelError, match=r"./nowhere"):
        bench([Subject("tiny-gpt2"), Subject("./nowhere")], SMALL)


def test_a_sequence_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(ModelError, match="128"):
        bench([Subject("tiny-gpt2")], BenchConfig(batch_size=1, sequence_length=200, rounds=1, training_steps=1))


def test_the_environment_names_machine_and_versions() -> None:
    facts = environment()
    assert facts["processor"]
    assert facts["memory_gb"] > 0
    assert {"torch", "transformers", "aerogel"} <= set(facts["versions"])
