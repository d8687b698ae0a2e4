"""Structured pruning in steps: how they are divided, and that an interrupted one resumes with what was removed."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from transformers import PreTrainedModel

from aerogel.models import load, save
from aerogel.pruning import PruneConfig
from aerogel.structure import StructureConfig, removed
from aerogel.tasks import TaskData
from aerogel.training import GradualPruning, Recovery, TrainingConfig, recover
from aerogel.training.structured import steps
from builders import sentence_data, sentences

CONFIG = TrainingConfig(batch_size=8, learning_rate=1e-3, max_length=16)


def cost(model: PreTrainedModel) -> float:
    """A measure that gives the same number each time."""
    return float(sum(parameter.numel() for parameter in model.base_model.encoder.parameters()))


def moods(count: int = 24) -> TaskData:
    return sentence_data(sentences(count))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEROGEL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@given(st.floats(1.01, 64), st.floats(0.5, 100))
def test_steps_at_most_double_the_speed_and_use_all_epochs(speedup: float, epochs: float) -> None:
    stages = steps(StructureConfig(speedup=speedup), epochs)
    each = [stage.structure.speedup or 0 for stage in stages]
    assert math.prod(each) == pytest.approx(speedup)
    assert max(each) <= 2 + 1e-6
    assert sum(stage.epochs for stage in stages) == pytest.approx(epochs)
    assert all(stage.epochs > 0 for stage in stages)


@pytest.mark.parametrize("structure", [StructureConfig(sparsity=0.5), StructureConfig(parameters=10**6)])
def test_other_targets_take_one_step(structure: StructureConfig) -> None:
    (stage,) = steps(structure, 3)
    assert (stage.structure, stage.epochs) == (structure, 3)


def test_without_training_there_is_one_step() -> None:
    (stage,) = steps(StructureConfig(speedup=8), 0)
    assert stage.structure.speedup == 8


def test_a_model_loses_structures_and_then_weights() -> None:
    recovery = Recovery(
        GradualPruning(PruneConfig(sparsity=0.8)),
        teacher="self",
        epochs=4,
        structure=StructureConfig(speedup=3),
        measure=cost,
    )
    recovered = recover("tiny-bert", moods(), CONFIG, recovery)
    dense, tokenizer = load("tiny-bert", moods().task.head)
    assert cost(dense) / cost(recovered.model) >= 3 / 1.01
    assert recovered.structure is not None
    assert recovered.structure.removed == tuple(removed(recovered.model))
    save(recovered.model, tokenizer, "small")
    loaded, _ = load("small")
    assert all(torch.equal(one, loaded.state_dict()[name]) for name, one in recovered.model.state_dict().items())


def test_an_interrupted_recovery_resumes_with_the_structures_it_had(tmp_path: Path) -> None:
    recovery = Recovery(epochs=4, structure=StructureConfig(speedup=3), measure=cost)
    whole = recover("tiny-bert", moods(), CONFIG, recovery, validate=lambda model: {"loss": 0.0})
    calls = 0

    def interrupts(model: PreTrainedModel) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls in (1, 3):  # within the first training, and within the second
            raise KeyboardInterrupt
        return {"loss": 0.0}

    checkpoints = tmp_path / "checkpoints"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            recover("tiny-bert", moods(), CONFIG, recovery, validate=interrupts, checkpoints=checkpoints)
    resumed = recover("tiny-bert", moods(), CONFIG, recovery, validate=interrupts, checkpoints=checkpoints)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    resumed.remove_checkpoints()
    assert not checkpoints.exists()
