"""Fine-tuning learns, keeps the zeros, and is the same for the same seed."""

import copy
import math
import re
import resource
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel import progress
from aerogel.errors import AerogelError, AerogelWarning, DataError, ModelError
from aerogel.evaluation import score
from aerogel.models import Head, load, prunable_weights
from aerogel.pruning import Calibration, PruneConfig, prune
from aerogel.runtime import compress
from aerogel.tasks import Metric, Task, TaskData, load_task
from aerogel.training import GradualPruning, TrainingConfig, TrainingResult, checkpoint, finetune
from aerogel.training.distillation import DistillationConfig
from builders import ARCHITECTURES, one_block_bert, prose, sentence_data, sentences, write_tsv

TINY = ["tiny-bert", "tiny-gpt2", "tiny-bart"]
SHORT = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-3, max_length=16, limit=32)


def easy(count: int) -> list[tuple[str, int]]:
    """Sentences that even a hardly trained model learns to tell apart in some dozen steps."""
    return [(f"{text} {('lovely ' if label else 'rotten ') * 5}".strip(), label) for text, label in sentences(count)]


def moods(count: int = 200) -> TaskData:
    return sentence_data(easy(count))


def story() -> TaskData:
    return TaskData(Task("story", "language_modelling"), {"train": prose(120), "validation": prose(40, seed=1)}, "made")


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


def test_a_tokenizer_that_pads_on_the_left_changes_no_weight() -> None:
    weights = []
    for side in ("right", "left"):
        torch.manual_seed(0)
        model, tokenizer = load("tiny-bert", moods(40).task.head)
        tokenizer.padding_side = side
        finetune(model, tokenizer, moods(40), SHORT)
        weights.append(model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


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
    updates: list[tuple[str, int, int]] = []
    with progress.listening(lambda *update: updates.append(update)):
        assert finetune(model, tokenizer, data, config).steps == steps
    assert [update[1:] for update in updates] == [(step, steps) for step in range(1, steps + 1)]
    assert updates[0][0] == "training"
    assert all(re.fullmatch(r"training, loss \d\.\d{3}", doing) for doing, _, _ in updates[1:])


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
        with pytest.raises(DataError, match=f"limit {limit}"):
            finetune(model, tokenizer, data, TrainingConfig(limit=limit))


@pytest.mark.parametrize("name", TINY)
def test_a_head_that_does_not_fit_is_refused_with_what_to_do(name: str) -> None:
    model, tokenizer = load(name)
    with pytest.raises(ModelError, match=r"moods.*classification.*language-modelling"):
        finetune(model, tokenizer, moods(), SHORT)
    model, tokenizer = load(name, Head("classification", ("a", "b", "c")))
    with pytest.raises(ModelError, match=r"moods.*2.*3"):
        finetune(model, tokenizer, moods(), SHORT)
    with pytest.raises(ModelError, match=r"story.*language-modelling"):
        finetune(model, tokenizer, story(), SHORT)


# recovery


GRADUAL = GradualPruning(PruneConfig(sparsity=0.8))


@cache
def trained(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    data = moods()
    torch.manual_seed(0)
    model, tokenizer = one_block_bert(data.task.head) if name == "one block" else load(name, data.task.head)
    finetune(model, tokenizer, data, TrainingConfig(epochs=3, batch_size=16, learning_rate=1e-3, max_length=16))
    return model, tokenizer


def tuned(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model that classifies `moods`, for the caller to change."""
    model, tokenizer = trained(name)
    return copy.deepcopy(model), tokenizer


@pytest.mark.parametrize("name", TINY)
def test_gradual_pruning_with_a_teacher_ends_sparse_and_accurate(name: str) -> None:
    data = moods()
    teacher, tokenizer = tuned(name)
    model = copy.deepcopy(teacher)
    config = TrainingConfig(epochs=2, batch_size=16, learning_rate=1e-3, max_length=16)
    result = finetune(model, tokenizer, data, config, sparsity=GRADUAL, teacher=teacher)
    weights = prunable_weights(model)
    assert sum(int((weight.matrix == 0).sum()) for weight in weights) == pytest.approx(
        0.8 * sum(weight.matrix.numel() for weight in weights), abs=1
    )
    assert result.steps == 2 * 13
    assert score(model, tokenizer, data).metrics["accuracy"] > 0.9
    assert all(not (weight.matrix == 0).any() for weight in prunable_weights(teacher))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "block:4x1"])
def test_a_calibrated_method_may_choose_the_weights(pattern: str) -> None:
    data = moods(64)
    teacher, tokenizer = tuned("one block")
    model = copy.deepcopy(teacher)
    config = TrainingConfig(epochs=4, batch_size=2, learning_rate=1e-3, max_length=16)
    sparsity = GradualPruning(PruneConfig("best", None if pattern == "2:4" else 0.8, pattern))
    levels: list[str] = []
    with progress.listening(lambda doing, done, total: levels.append(doing.rpartition(", ")[2])):
        finetune(model, tokenizer, data, config, sparsity=sparsity, teacher=teacher)
    found = {level for level in levels if level.endswith("% zeros")}
    assert (len(found) > 4) == (pattern != "2:4")  # whose groups are pruned at once
    weights = prunable_weights(model)
    zeros = sum(int((weight.matrix == 0).sum()) for weight in weights)
    assert zeros == pytest.approx(sparsity.sparsity * sum(weight.matrix.numel() for weight in weights), abs=4)
    for weight in weights:
        groups = {"2:4": (weight.matrix == 0).reshape(-1, 4), "block:4x1": (weight.matrix == 0).T.reshape(-1, 4)}
        counts = set(groups[pattern].sum(1).tolist()) if pattern in groups else set()
        assert counts <= ({2} if pattern == "2:4" else {0, 4})
    assert score(model, tokenizer, data).metrics["accuracy"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_language_models_recover_too(name: str) -> None:
    data = story()
    teacher, tokenizer = load(name, data.task.head)
    model, _ = load(name, data.task.head)
    config = TrainingConfig(epochs=6, batch_size=4, learning_rate=1e-3, limit=8)
    finetune(model, tokenizer, data, config, sparsity=GRADUAL, teacher=teacher)
    one_shot, _ = load(name, data.task.head)
    prune(one_shot, sparsity=0.8, scope="global")
    assert score(model, tokenizer, data, 4).metrics["loss"] < score(one_shot, tokenizer, data, 4).metrics["loss"]


class InterruptError(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "when", "by"),
    [
        ("one block", "in the middle", "best"),
        ("tiny-gpt2", "while saving", "movement"),
        ("tiny-bart", "in the middle", "movement"),
    ],
)
def test_an_interrupted_training_resumes_bit_exactly(
    name: str, when: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = moods(64)
    teacher, tokenizer = tuned(name)
    config = TrainingConfig(epochs=4, batch_size=16, learning_rate=1e-3, max_length=16)

    def train(model: PreTrainedModel, checkpoints: Path | None) -> TrainingResult:
        def validate(model: PreTrainedModel) -> dict[str, float]:
            return score(model, tokenizer, data, 32).metrics

        return finetune(
            model,
            tokenizer,
            data,
            config,
            sparsity=GradualPruning.of(GRADUAL, score=by),
            teacher=teacher,
            validate=validate,
            checkpoints=checkpoints,
        )

    whole = copy.deepcopy(teacher)
    expected = train(whole, None)
    assert [entry["accuracy"] > 0 for entry in expected.validation] == [True] * 4
    assert expected.kept == expected.validation[-1]
    folder = tmp_path / "checkpoints"
    with monkeypatch.context() as patch:
        if when == "while saving":

            def fail(*arguments: Any, **settings: Any) -> None:
                if len(list(folder.glob("checkpoint-*"))) == 2:
                    raise InterruptError
                save_file(*arguments, **settings)

            patch.setattr(checkpoint, "save_file", fail)
            broken = train
        else:

            def stop(doing: str, done: int, total: int) -> None:
                if done == 10 and doing.startswith("training"):
                    raise InterruptError

            def broken(model: PreTrainedModel, checkpoints: Path | None) -> TrainingResult:
                with progress.listening(stop):
                    return train(model, checkpoints)

        with pytest.raises(InterruptError):
            broken(copy.deepcopy(teacher), folder)
    steps = []
    resumed = copy.deepcopy(teacher)
    with progress.listening(lambda doing, done, total: steps.append(done) if "training" in doing else None):
        result = train(resumed, folder)
    assert steps[0] > 1  # it did not begin anew
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())
    assert result.losses == expected.losses
    assert result.validation == expected.validation
    # and a finished one, if it could not be saved, is there without another step
    again = copy.deepcopy(teacher)
    with progress.listening(lambda doing, done, total: interrupt("training" in doing)):
        assert train(again, folder).losses == expected.losses
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize(("epochs", "patience", "steps"), [(6, 1, 8), (1.5, None, 6)])
def test_a_training_that_ended_early_ends_there_again(
    epochs: float, patience: int | None, steps: int, tmp_path: Path
) -> None:
    data = moods(32)
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", data.task.head)
    config = replace(SHORT, epochs=epochs, patience=patience)

    def train(model: PreTrainedModel, accuracies: list[float]) -> TrainingResult:
        def validate(model: PreTrainedModel) -> dict[str, float]:
            return {"accuracy": accuracies.pop(0)}

        return finetune(model, tokenizer, data, config, validate=validate, checkpoints=tmp_path / "run")

    again = copy.deepcopy(model)
    result, found = train(model, [0.8, 0.7]), train(again, [])
    assert result.steps == found.steps == steps
    assert (result.losses, result.validation, result.kept) == (found.losses, found.validation, found.kept)
    assert result.kept["accuracy"] == (0.8 if patience else 0.7)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_metric_of_the_user_selects_the_best_epoch(higher_is_better: bool) -> None:
    values = [2.0, 3.0, 1.0, 1.0, 4.0, 0.0]
    own = Metric("own", lambda predictions, references: values.pop(0), higher_is_better, (0, 5))
    data = load_task([{"text": text, "label": label} for text, label in sentences(32)], metrics=[own])
    model, tokenizer = load("tiny-bert", data.task.head)

    def validate(model: PreTrainedModel) -> dict[str, float]:
        return {metric.name: metric.function(np.zeros(1), np.zeros(1)) for metric in data.task.own_metrics}

    config = replace(SHORT, epochs=6, patience=2)
    result = finetune(model, tokenizer, data, config, validate=validate)
    assert result.kept["own"] == (3 if higher_is_better else 1)


def test_data_in_memory_is_trained_on() -> None:
    rows = [{"text": text, "label": label} for text, label in sentences(32)]
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", load_task(rows).task.head)
    again = copy.deepcopy(model)
    results = [finetune(trained, tokenizer, data, SHORT) for trained, data in ((model, rows), (again, load_task(rows)))]
    assert results[0].losses == results[1].losses
    assert "data in memory" in results[0].source
    language_model, tokenizer = load("tiny-gpt2")
    with pytest.warns(AerogelWarning, match="task data .*GPT2LMHeadModel"):
        finetune(language_model, tokenizer, rows, SHORT)


@pytest.mark.parametrize("room", [2_000_000, 10_000_000])
def test_a_checkpoint_that_does_not_fit_on_the_disk_is_named(room: int, tmp_path: Path) -> None:
    """The weights take 7 MB, the state of the optimizer 15."""
    data = moods(8)
    model, tokenizer = load("tiny-bert", data.task.head)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(AerogelError, match="run: "):
            finetune(model, tokenizer, data, SHORT, checkpoints=tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "settings",
    [
        dict(epochs=0),
        dict(epochs=math.inf),
        dict(learning_rate=math.nan),
        dict(seed=-1),
        dict(seed=2**32),
        dict(batch_size=0),
        dict(patience=0),
        dict(temperature=0),
        dict(hardness=1.5),
        dict(augmentation=-0.1),
        dict(hidden=-1),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    [(name, value)] = settings.items()
    kind = TrainingConfig if hasattr(TrainingConfig(), name) else DistillationConfig
    with pytest.raises(DataError, match=f"{name} {value}"):
        kind(**settings)


def test_another_precision_is_refused() -> None:
    with pytest.raises(DataError, match=r"precision 'bf16'.*bfloat16"):
        TrainingConfig(precision="bf16")


def test_after_an_error_the_model_is_in_evaluation_mode() -> None:
    data = moods(64)
    model, tokenizer = tuned("one block")

    def fail(model: PreTrainedModel) -> dict[str, float]:
        raise KeyError("no metric")

    with pytest.raises(KeyError, match="no metric"):
        finetune(model, tokenizer, data, replace(SHORT, precision="bfloat16"), validate=fail)
    assert not any(module.training or "forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("name", TINY)
def test_a_pruned_model_s_zeros_are_in_its_checkpoints(name: str, tmp_path: Path) -> None:
    data = moods(64)
    torch.manual_seed(0)
    model, tokenizer = load(name, data.task.head)
    masks = prune(model, sparsity=0.5)
    config, resumed = replace(SHORT, epochs=2), copy.deepcopy(model)
    with pytest.raises(InterruptError), progress.listening(lambda doing, done, total: interrupt(done == 6)):
        finetune(copy.deepcopy(model), tokenizer, data, config, checkpoints=tmp_path / "run")
    finetune(resumed, tokenizer, data, config, checkpoints=tmp_path / "run")
    finetune(model, tokenizer, data, config)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(weight.matrix == 0, ~masks[weight.name]) for weight in prunable_weights(resumed))


def test_checkpoints_of_another_training_are_refused(tmp_path: Path) -> None:
    data = moods(64)
    model, tokenizer = load("tiny-gpt2", data.task.head)
    other = copy.deepcopy(model)
    prune(other, sparsity=0.5)
    twice = replace(SHORT, epochs=2)
    with pytest.raises(InterruptError), progress.listening(lambda doing, done, total: interrupt(done == 6)):
        finetune(copy.deepcopy(model), tokenizer, data, twice, checkpoints=tmp_path / "run")
    for asked, config in ((model, replace(twice, seed=1)), (other, twice)):
        with pytest.raises(DataError, match="run has checkpoints"):
            finetune(asked, tokenizer, data, config, checkpoints=tmp_path / "run")


def test_a_training_without_a_whole_checkpoint_is_followed_by_another(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert checkpoint.last_checkpoint(folder, "first") is None
    (folder / "checkpoint-4").mkdir()
    assert checkpoint.last_checkpoint(folder, "second") is None
    assert not (folder / "checkpoint-4").exists()
    (folder / "structure-1").mkdir()
    with pytest.raises(DataError, match="run has checkpoints"):
        checkpoint.last_checkpoint(folder, "third")


@pytest.mark.slow
@pytest.mark.parametrize("by", ["best", "magnitude"])
def test_a_sparse_model_never_becomes_denser(by: str) -> None:
    data = moods(64)
    model, tokenizer = one_block_bert(data.task.head)
    prune(model, sparsity=0.7)
    shares: list[float] = []

    def count(doing: str, done: int, total: int) -> None:
        if doing.startswith("training"):
            matrices = [weight.matrix for weight in prunable_weights(model)]
            shares.append(sum(int((matrix == 0).sum()) for matrix in matrices) / sum(map(torch.numel, matrices)))

    config = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-3, max_length=16)
    with progress.listening(count):
        finetune(model, tokenizer, data, config, sparsity=GradualPruning(PruneConfig(by, 0.8)))
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (pytest.approx(0.7, abs=1e-4), pytest.approx(0.8, abs=1e-4))


def test_a_teacher_needs_the_head_of_the_task() -> None:
    data = moods(64)
    model, tokenizer = load("tiny-bert", data.task.head)
    with pytest.raises(ModelError, match=r"moods.*classification.*teacher"):
        finetune(model, tokenizer, data, SHORT, teacher=load("tiny-bert")[0])
    swapped = load("tiny-bert", Head("classification", ("glad", "sad")))[0]
    with pytest.raises(ModelError, match=r"sad, glad .* glad, sad"):
        finetune(model, tokenizer, data, SHORT, teacher=swapped)


def test_a_packed_model_may_teach(tmp_path: Path) -> None:
    data = moods(8)
    model, tokenizer = load("tiny-bert", data.task.head)
    teacher = copy.deepcopy(model)
    prune(teacher, sparsity=0.8)
    losses = [
        finetune(copy.deepcopy(model), tokenizer, data, SHORT, teacher=given, checkpoints=tmp_path / name).losses
        for name, given in (("dense", copy.deepcopy(teacher)), ("packed", compress(teacher)))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_single_words_are_enough_to_learn_from_a_teacher() -> None:
    rows = [(word, place % 2) for place, word in enumerate(prose(16).split()[:80])]
    data = sentence_data(rows)
    model, tokenizer = one_block_bert(data.task.head)
    config = TrainingConfig(epochs=1, batch_size=8, max_length=16)
    finetune(model, tokenizer, data, config, sparsity=GradualPruning.of(sparsity=0.5), teacher=copy.deepcopy(model))
    weights = prunable_weights(model)
    assert sum(int((weight.matrix == 0).sum()) for weight in weights) >= 0.5 * sum(
        weight.matrix.numel() for weight in weights
    )


def interrupt(now: bool) -> None:
    if now:
        raise InterruptError


def test_patience_keeps_the_best_epoch_of_those_that_are_sparse() -> None:
    data = moods(64)
    model, tokenizer = tuned("one block")
    accuracies = iter([0.9, 0.8, 0.5, 0.7, 0.6, 0.4, 0.3, 0.2])
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: PreTrainedModel) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"accuracy": next(accuracies)}

    config = TrainingConfig(epochs=8, batch_size=16, learning_rate=1e-3, max_length=16, patience=2)
    result = finetune(model, tokenizer, data, config, sparsity=GRADUAL, validate=validate)
    # the last pruning is in the fifth epoch: what came before was too dense to count
    assert [entry["accuracy"] for entry in result.validation] == [0.9, 0.8, 0.5, 0.7, 0.6, 0.4, 0.3]
    assert all(torch.equal(value, seen[4][name]) for name, value in model.state_dict().items())
    assert result.kept == result.validation[4]
    with pytest.raises(DataError, match=r"patience.*validate"):
        finetune(model, tokenizer, data, config)


def test_products_in_bfloat16_keep_weights_in_float32() -> None:
    data = moods(64)
    torch.manual_seed(0)
    model, tokenizer = load("tiny-bert", data.task.head)
    other = copy.deepcopy(model)
    result = finetune(model, tokenizer, data, replace(SHORT, precision="bfloat16"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    fresh, _ = load("tiny-bert", data.task.head)
    fresh.load_state_dict(model.state_dict())
    ids = torch.arange(16).view(2, 8)
    assert torch.equal(model(ids).logits, fresh.eval()(ids).logits)  # only training is in bfloat16
    exact = finetune(other, tokenizer, data, replace(SHORT, precision="float32"))
    assert result.losses != exact.losses
    assert result.losses == pytest.approx(exact.losses, rel=0.1)


def test_at_no_sparsity_nothing_is_pruned() -> None:
    data = moods(64)
    teacher, tokenizer = one_block_bert(data.task.head)
    plain, made = copy.deepcopy(teacher), copy.deepcopy(teacher)
    longer = replace(SHORT, epochs=5, batch_size=1)  # enough steps for "best" to prune as often
    for model, by in ((plain, "magnitude"), (made, "best")):
        finetune(model, tokenizer, data, longer, sparsity=GradualPruning(PruneConfig(by, 0.0)))
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in plain.state_dict().items())
    assert not any((weight.matrix == 0).any() for weight in prunable_weights(made))


def test_a_model_that_calibration_cannot_follow_is_refused_before_the_first_step() -> None:
    data, steps = story(), list[str]()
    model, tokenizer = ARCHITECTURES["albert"].build(), load("tiny-bart")[1]
    with (
        progress.listening(lambda doing, *_: steps.append(doing)),
        pytest.raises(ModelError, match=r"albert_layer_groups\.0.*3"),
    ):
        finetune(model, tokenizer, data, SHORT, sparsity=GradualPruning(PruneConfig("best", 0.5)))
    assert not steps


def test_empty_texts_are_learnt_and_scored_like_others() -> None:
    """GPT-2's tokenizer makes no token of them."""
    data = sentence_data([("", 0)] * 12 + [("a good film", 1)] * 4)
    model, tokenizer = load("tiny-gpt2", data.task.head)
    teacher = copy.deepcopy(model)  # so that texts are also put together from the empty ones
    sparse = GradualPruning(PruneConfig("wanda", 0.5), "constant")
    config = replace(SHORT, batch_size=1, limit=None)
    result = finetune(model, tokenizer, data, config, sparsity=sparse, teacher=teacher)
    assert all(map(math.isfinite, result.losses))
    one_by_one = score(model, tokenizer, data, batch_size=1).logits
    assert np.allclose(one_by_one, score(model, tokenizer, data, batch_size=8).logits, atol=1e-3)
    text = Calibration(data, tokenizer, 1, 12)
    assert sum(int(batch["attention_mask"].sum()) for batch in text.batches(model)) >= 12


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # drawn on the device
    return model


@pytest.mark.gpu
@pytest.mark.parametrize("sparsity", [None, GradualPruning(PruneConfig(method="magnitude", sparsity=0.5))])
def test_a_gpu_agrees_with_the_cpu(sparsity: GradualPruning | None) -> None:
    losses, data = [], moods()
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model, tokenizer = load("tiny-bert", data.task.head)
        teacher = copy.deepcopy(model)  # on the CPU, until it teaches
        model = without_dropout(model).to(device)
        config = replace(SHORT, precision="float32")
        result = finetune(model, tokenizer, data, config, sparsity=sparsity, teacher=teacher)
        assert model.device.type == device
        losses.append(result.losses)
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


@pytest.mark.gpu
def test_another_gpu_than_the_first_is_refused() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("torch sees one GPU")
    model, tokenizer = load("tiny-bert", moods().task.head)
    with pytest.raises(ModelError, match="cuda:1"):
        finetune(model.to("cuda:1"), tokenizer, moods(), SHORT)
