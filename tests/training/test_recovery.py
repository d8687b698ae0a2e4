"""From a model to a recovered one: what it starts from, what teaches it, and when it is pruned."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from aerogel.models import load, prunable_weights, save
from aerogel.models.int8 import round_to_grid
from aerogel.pruning import PruneConfig
from aerogel.tasks import TaskData
from aerogel.training import GradualPruning, Recovered, Recovery, TrainingConfig, cached_finetune, finetune, recover
from builders import sentence_data, sentences

CONFIG = TrainingConfig(batch_size=8, learning_rate=1e-3, max_length=16)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AEROGEL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def moods(count: int = 24) -> TaskData:
    return sentence_data(sentences(count))


def assert_alike(one: PreTrainedModel, other: PreTrainedModel) -> None:
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def zeros(recovered: Recovered) -> float:
    weights = prunable_weights(recovered.model)
    return sum(int(weight.zeros.sum()) for weight in weights) / sum(weight.matrix.numel() for weight in weights)


@pytest.mark.parametrize("name", ["dense", "self-made"])
def test_a_folder_of_any_name_is_a_teacher(name: str, home: Path) -> None:
    data = moods()
    torch.manual_seed(1)
    teacher, tokenizer = load("tiny-bert", data.task.head)
    save(teacher, tokenizer, name)
    recovered = recover("tiny-bert", data, CONFIG, Recovery(teacher=name, epochs=1))
    torch.manual_seed(CONFIG.seed)
    model, _ = load("tiny-bert", data.task.head)
    finetune(model, tokenizer, data, replace(CONFIG, epochs=1), teacher=teacher)
    assert_alike(recovered.model, model)
    assert recovered.dense_seconds is None
    assert not (home / "tuned").exists()


def test_a_model_that_teaches_itself_is_finetuned_once_and_starts_from_there(home: Path) -> None:
    data, recovery = moods(), Recovery(GradualPruning(PruneConfig(sparsity=0.8)), teacher="self", epochs=4)
    first, second = (recover("tiny-bert", data, CONFIG, recovery) for _ in range(2))
    assert_alike(first.model, second.model)
    assert first.dense_seconds == second.dense_seconds
    (folder,) = (path for path in (home / "tuned").iterdir() if path.is_dir())
    assert folder == cached_finetune("tiny-bert", data, CONFIG)[0]
    model, tokenizer = load(folder, data.task.head)
    finetune(
        model,
        tokenizer,
        data,
        replace(CONFIG, epochs=4),
        sparsity=GradualPruning(PruneConfig(sparsity=0.8)),
        teacher=load(folder)[0],
    )
    assert_alike(first.model, model)


@pytest.mark.parametrize("pruning", [None, PruneConfig(sparsity=0.8), PruneConfig("wanda", 0.8)])
def test_without_training_values_are_rounded_on_the_text(pruning: PruneConfig | None) -> None:
    data = moods()
    floats, rounded = (
        recover("tiny-bert", data, CONFIG, Recovery(pruning, epochs=0.0, values=values)) for values in (None, "int8")
    )
    for before, after in zip(prunable_weights(floats.model), prunable_weights(rounded.model), strict=True):
        assert torch.equal(round_to_grid(after.matrix), after.matrix)
        assert not torch.equal(round_to_grid(before.matrix), after.matrix)  # not to the nearest
        assert not (before.zeros & ~after.zeros).any()
    assert rounded.training.steps == 0


def test_it_is_pruned_before_training_or_during_it() -> None:
    data, config = moods(), PruneConfig(sparsity=0.8, scope="layer")
    for pruning in (config, GradualPruning(config), replace(config, method="wanda")):
        recovered = recover("tiny-bert", data, CONFIG, Recovery(pruning, epochs=4))
        assert recovered.training.steps == 4 * 3
        assert zeros(recovered) == pytest.approx(0.8, abs=1e-3)


def test_without_epochs_it_is_pruned_alone() -> None:
    data = moods()
    recovered = recover("tiny-bert", data, CONFIG, Recovery(PruneConfig(sparsity=0.5), finetune_first=True, epochs=0))
    assert recovered.training.steps == 0
    assert zeros(recovered) == pytest.approx(0.5, abs=1e-3)
    dense, _ = load(cached_finetune("tiny-bert", data, CONFIG)[0], data.task.head)
    assert all(
        torch.equal(weight.matrix, other.matrix.masked_fill(weight.zeros, 0))
        for weight, other in zip(prunable_weights(recovered.model), prunable_weights(dense), strict=True)
    )


@pytest.mark.parametrize(
    ("pruning", "epochs"),
    [(None, 3), (PruneConfig(sparsity=0.5), 3), (GradualPruning(PruneConfig(sparsity=0.5)), 10)],
    ids=["none", "before", "during"],
)
def test_pruning_during_training_takes_more_epochs(pruning: PruneConfig | GradualPruning | None, epochs: int) -> None:
    assert recover("tiny-bert", moods(8), CONFIG, Recovery(pruning)).training.steps == epochs


def test_checkpoints_stay_until_they_are_removed(tmp_path: Path) -> None:
    folder, data = tmp_path / "run", moods(8)
    first = recover("tiny-bert", data, CONFIG, Recovery(epochs=2), checkpoints=folder)
    again = recover("tiny-bert", data, CONFIG, Recovery(epochs=2), checkpoints=folder)
    assert again.training.losses == first.training.losses
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    again.remove_checkpoints()
    assert not folder.exists()
