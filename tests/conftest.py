"""What all tests share: no hub, few threads, and a small real study."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch does: models this small only wait for a second thread
os.environ.pop("AEROGEL_DATA", None)

import pytest
from hypothesis import settings

from aerogel.study import StudySpec, parse_spec, run_study

settings.register_profile("aerogel", deadline=None, database=None)  # no test depends on the machine's speed
settings.load_profile("aerogel")


def small_spec(**changes: object) -> StudySpec:
    """Two tiny models, three sparsities, two tasks, two seeds: seconds."""
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
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished small study."""
    folder = tmp_path_factory.mktemp("studies") / "small"
    run_study(small_spec(), folder)
    return folder
