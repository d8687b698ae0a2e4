"""Fine-tuning learns, holds the zeros, and is the same for the same seed."""

from pathlib import Path

import pytest
import torch

from aerogel import progress
from aerogel.data import Examples, Task, TaskData, load_task
from aerogel.errors import DataError, ModelError
from aerogel.evaluation import score
from aerogel.models import Head, load, prunable_weights
from aerogel.pruning import prune
from aerogel.training import TrainingConfig, TrainingResult, finetune
from builders import prose, sentences, write_tsv

TINY = ["tiny-bert", "tiny-gpt2", "tiny-bart"]
SHORT = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-3, max_length=16, limit=32)


def easy(count: int) -> list[tuple[str, int]]:
    """Sentences that even a hardly trained model learns to tell apart in some dozen steps."""
    return [(f"{text} {('lovely ' if label else 'rotten ') * 5}".strip(), label) for text, label in sentences(count)]


def moods(count: int = 200) -> TaskData:
    rows = easy(count)
    examples = Examples([(text,) for text, _ in rows], [float(label) for _, label in rows])
    task = Task("moods", ("sentence",), ("sad", "glad"), ("accuracy",))
    return TaskData(task, {"train": examples, "validation": examples}, "made")


def story() -> TaskData:
    return TaskData(Task("story"), {"train": prose(120), "validation": prose(40, seed=1)}, "made")


@pytest.mark.parametrize(("name", "epochs"), [("tiny-bert", 4), ("tiny-gpt2", 2), ("tiny-bart", 2)])
def test_the_loss_falls_and_the_zeros_stay(name: str, epochs: int) -> None:
    data = moods()
    torch.manual_seed(0)
    model, tokenizer = load(name, data.task.head)
    masks = prune(model, sparsity=0.5)
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    result = finetune(
        model, tokenizer, data, TrainingConfig(epochs=epochs, batch_size=16, learning_rate=1e-3, max_length=16)
    )
    assert result.steps == epochs * 13
    assert len(result.losses) == result.steps
    assert sum(result.losses[-5:]) < 0.8 * sum(result.losses[:5])
    assert score(model, tokenizer, data).metrics["accuracy"] > 0.9
    assert not model.training
    assert result.seconds > 0
    for weight in prunable_weights(model):
        assert torch.equal(weight.matrix == 0, ~masks[weight.name])
        assert not torch.equal(weight.matrix, before[weight.name])


@pytest.mark.parametrize("name", TINY)
def test_language_models_learn_too(name: str) -> None:
    data = story()
    model, tokenizer = load(name, data.task.head)
    masks = prune(model, pattern="2:4")
    before = score(model, tokenizer, data)
    config = TrainingConfig(epochs=2, batch_size=4, learning_rate=2e-3, limit=12)
    result = finetune(model, tokenizer, data, config)
    after = score(model, tokenizer, data)
    assert after.metrics["loss"] < before.metrics["loss"]
    assert result.losses[-1] < result.losses[0]
    for weight in prunable_weights(model):
        assert torch.equal(weight.matrix == 0, ~masks[weight.name])


def test_a_step_holds_as_many_tokens_of_text_as_of_sentences() -> None:
    model, tokenizer = load("tiny-gpt2", Head("language-modelling"))
    room = model.config.n_positions
    config = TrainingConfig(epochs=1, batch_size=8, max_length=room // 2, limit=9)
    assert finetune(model, tokenizer, story(), config).steps == 3  # nine windows, four a step
    config = TrainingConfig(epochs=1, batch_size=1, max_length=8, limit=3)
    assert finetune(model, tokenizer, story(), config).steps == 3  # at least one


@pytest.mark.parametrize(("epochs", "steps"), [(1, 4), (2.5, 10), (0.01, 1)])
def test_epochs_are_passes_over_the_examples(epochs: float, steps: int) -> None:
    data = moods(64)
    model, tokenizer = load("tiny-gpt2", data.task.head)
    config = TrainingConfig(epochs=epochs, batch_size=8, max_length=16, limit=30)
    told: list[tuple[str, int, int]] = []
    with progress.listening(lambda *news: told.append(news)):
        assert finetune(model, tokenizer, data, config).steps == steps
    assert told == [("fine-tuning on moods", place, steps) for place in range(1, steps + 1)]


def weights_after(name: str, seed: int, start: int = 0) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
    data = moods()
    torch.manual_seed(start)
    model, tokenizer = load(name, data.task.head)
    prune(model, sparsity=0.5)
    torch.rand(seed + 3)  # what was drawn before has no say
    config = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-3, max_length=16, limit=32, seed=seed)
    return finetune(model, tokenizer, data, config), model.state_dict()


@pytest.mark.parametrize("name", TINY)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    (result, first), (again, second), (_, other) = (weights_after(name, seed) for seed in (1, 1, 2))
    assert result.losses == again.losses
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


def test_numbers_are_learnt_from_a_folder(tmp_path: Path) -> None:
    rows = [(text, text, 5 if label else 0.25) for text, label in easy(120)]
    write_tsv(tmp_path / "stsb" / "train.tsv", rows, ("sentence1", "sentence2", "label"))
    data = load_task("stsb", tmp_path)
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", data.task.head)
    result = finetune(model, tokenizer, data, TrainingConfig(epochs=4, batch_size=8, learning_rate=2e-4, max_length=32))
    epoch = result.steps // 4
    assert sum(result.losses[-epoch:]) < 0.8 * sum(result.losses[:epoch])
    found = score(model, tokenizer, data)
    assert found.metrics["pearson"] > 0.8
    assert found.metrics["correlation"] == (found.metrics["pearson"] + found.metrics["spearman"]) / 2


@pytest.mark.parametrize("limit", [0, -1])
def test_nothing_to_learn_from_is_refused(limit: int) -> None:
    for data in (moods(), story()):
        model, tokenizer = load("tiny-gpt2", data.task.head)
        with pytest.raises(DataError, match=f"limit {limit} leaves no"):
            finetune(model, tokenizer, data, TrainingConfig(limit=limit))


@pytest.mark.parametrize("name", TINY)
def test_a_head_that_does_not_fit_is_refused_with_what_to_do(name: str) -> None:
    model, tokenizer = load(name)
    with pytest.raises(
        ModelError, match=r"task moods needs a classification head and .* has one for language-modelling"
    ):
        finetune(model, tokenizer, moods(), SHORT)
    model, tokenizer = load(name, Head("classification", ("a", "b", "c")))
    with pytest.raises(ModelError, match="task moods has 2 labels and the model's head 3"):
        finetune(model, tokenizer, moods(), SHORT)
    with pytest.raises(ModelError, match="task story needs a language-modelling head"):
        finetune(model, tokenizer, story(), SHORT)
