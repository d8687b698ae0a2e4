"""Settings of all tests (no hub, one thread), and a small study."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it: a second thread slows down models this small
os.environ.pop("AEROGEL_DATA", None)
os.environ["AEROGEL_HOME"] = tempfile.mkdtemp(prefix="aerogel-tests-")  # before trials start processes

import pytest
import torch
from filelock import FileLock
from hypothesis import register_random, settings

from aerogel.models import Head, save
from aerogel.study import StudySpec, parse_spec, run_study
from builders import one_block_bert, sentences, write_tsv

settings.register_profile("aerogel", deadline=None, database=None)  # no test depends on the speed of the machine
settings.load_profile("aerogel")


class TorchRandom:
    """Draws of torch as Hypothesis resets them before each of its examples, so that a failing one fails again."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # Hypothesis holds only a weak reference
register_random(TORCH_RANDOM)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    torch.manual_seed(0)


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["AEROGEL_HOME"], ignore_errors=True)


def small_spec(**changes: object) -> StudySpec:
    """Two tiny models, three sparsities, two tasks, two seeds: takes seconds."""
    values = {
        "name": "small",
        "models": ["tiny-gpt2", "tiny-bart"],
        "tasks": ["movie-reviews", "python-reference"],
        "sparsities": [0, 0.5, 0.9],
        "seeds": [0, 1],
        "processes": 2,
        "training": {"epochs": 1, "limit": 32, "text_limit": 4, "learning_rate": 5e-4, "max_length": 32},
        "evaluation": {"limit": 64, "text_limit": 4},
        "benchmark": {"batch_size": 4, "sequence_length": 16, "rounds": 3, "training_steps": 1},
    }
    return parse_spec({**values, **changes})


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[StudySpec], Path]:
    """Run a study once for all test processes, and return its folder."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def run(spec: StudySpec) -> Path:
        folder, done = shared / spec.name, shared / f"{spec.name}.done"
        with FileLock(shared / f"{spec.name}.lock"):
            if not done.exists():
                run_study(spec, folder)
                done.touch()
        return folder

    return run


@pytest.fixture(scope="session")
def study_folder(studied: Callable[[StudySpec], Path]) -> Path:
    """The folder of a finished small study."""
    return studied(small_spec())


@pytest.fixture(scope="session")
def recovery_folder(studied: Callable[[StudySpec], Path]) -> Path:
    """The folder of a finished small study of all recoveries."""
    training = {"epochs": 1, "batch_size": 4, "limit": 40, "learning_rate": 1e-3, "max_length": 24}
    spec = small_spec(
        name="recovery",
        models=["tiny-gpt2"],
        tasks=["movie-reviews"],
        sparsities=[0, 0.9],
        recoveries=["none", "finetune", "gradual"],
        training=training,
        recovery={"epochs": 2, "score": "magnitude"},
        benchmark=None,
    )
    return studied(spec)


@pytest.fixture(scope="session")
def structured_folder(studied: Callable[[StudySpec], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished small study of removed structures, zeros and int8, alone and together."""
    data = write_tsv(tmp_path_factory.mktemp("data") / "moods.tsv", [*sentences(40)])
    model = tmp_path_factory.mktemp("models") / "one-block-bert"
    save(*one_block_bert(Head("classification", ("0", "1"))), model)
    spec = small_spec(
        name="structured",
        models=[str(model)],
        tasks=[str(data)],
        sparsities=[0, 0.5],
        structures=["none", "sparsity=0.5"],
        recoveries=["none"],
        values=["float32", "int8"],
        seeds=[0],
        training={"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "max_length": 24},
    )
    return studied(spec)


@pytest.fixture(scope="session")
def rounded_folder(studied: Callable[[StudySpec], Path]) -> Path:
    """The folder of a finished small study of float32 and int8."""
    spec = small_spec(
        name="rounded",
        models=["tiny-gpt2"],
        tasks=["movie-reviews"],
        sparsities=[0, 0.9],
        recoveries=["none", "finetune"],
        values=["float32", "int8"],
        seeds=[0],
        training={"epochs": 2, "batch_size": 4, "limit": 120, "learning_rate": 1e-3, "max_length": 24},
        recovery={"epochs": 1},
    )
    return studied(spec)
