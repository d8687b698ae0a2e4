"""What a student learns from its teacher."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel, default_data_collator

from aerogel.errors import ModelError
from aerogel.models import Head, load
from aerogel.pruning import prune
from aerogel.tasks import IGNORED, Examples, TaskKind
from aerogel.tasks.encode import encode_examples, language_windows
from aerogel.tasks.kind import all_kinds
from aerogel.training.distillation import Distillation, DistillationConfig
from builders import prose, sentences

TINY = ["tiny-bert", "tiny-gpt2", "tiny-bart"]
HEADS = [Head("classification", ("bad", "good")), Head("classification", ("how much",)), Head("language-modelling")]
ANSWERS = DistillationConfig(hidden=0)


def kind_of(head: Head) -> TaskKind:
    if head.kind == "language-modelling":
        return all_kinds()["language_modelling"]
    return all_kinds()["sentence_classification" if len(head.labels) > 1 else "sentence_regression"]


def models(name: str, head: Head) -> tuple[PreTrainedModel, PreTrainedModel, dict[str, Tensor]]:
    """A teacher, a pruned student, and a batch with padding where there can be some."""
    torch.manual_seed(0)
    teacher, tokenizer = load(name, head)
    student, _ = load(name, head)
    student.load_state_dict(teacher.state_dict())
    prune(student, sparsity=0.7)
    if head.kind == "language-modelling":
        windows = language_windows(prose(40), tokenizer, teacher.config, seed=0, length=48, limit=3)
        return teacher, student, default_data_collator(windows)
    number = float if len(head.labels) == 1 else int
    rows = [(text * (1 + place), label) for place, (text, label) in enumerate(sentences(4))]
    examples = Examples([(text,) for text, _ in rows], [number(label) for _, label in rows])
    encoded = encode_examples(examples, tokenizer, teacher.config, 64)
    return teacher, student, dict(DataCollatorWithPadding(tokenizer)(encoded))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head.kind}{len(head.labels)}")
def test_a_perfect_student_has_nothing_to_learn_and_a_pruned_one_has(name: str, head: Head) -> None:
    teacher, student, batch = models(name, head)
    for config in (ANSWERS, DistillationConfig()):
        distillation = Distillation(teacher, config, kind_of(head))
        distillation.check(student)
        perfect, _ = distillation.loss(teacher, batch)
        assert abs(perfect.item()) < 1e-6
        loss, output = distillation.loss(student, batch)
        assert loss.item() > 1e-4
        loss.backward()
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert output.logits.shape == student(**batch).logits.shape


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head.kind}{len(head.labels)}")
def test_padding_and_places_that_are_not_asked_teach_nothing(name: str, head: Head) -> None:
    teacher, student, batch = models(name, head)

    def loss(config: DistillationConfig, batch: dict[str, Any]) -> float:
        return Distillation(teacher, config, kind_of(head)).loss(student, batch)[0].item()

    if head.kind == "classification":
        pads = batch["attention_mask"] == 0
        assert pads.any()
        longer = {key: torch.nn.functional.pad(batch[key], (0, 5)) for key in batch if key != "labels"}
        longer["input_ids"][:, -5:] = teacher.config.pad_token_id
        for config in (ANSWERS, DistillationConfig()):
            assert loss(config, batch | longer) == pytest.approx(loss(config, batch), rel=1e-4)
        return
    if name == "tiny-bart":  # its decoder would read the labels
        batch["decoder_input_ids"] = student.prepare_decoder_input_ids_from_labels(batch["labels"])
    asked = batch["labels"].clone()
    for row, place in (asked != IGNORED).nonzero()[::2]:
        asked[row, place] = IGNORED
    with torch.no_grad():
        goal, found = (torch.log_softmax(model(**batch).logits / 2, -1) for model in (teacher, student))
    each = 4 * (goal.exp() * (goal - found)).sum(-1)
    if name == "tiny-gpt2":  # answers for the next place
        each, answered = each[:, :-1], asked[:, 1:] != IGNORED
    else:
        answered = asked != IGNORED
    assert loss(ANSWERS, batch | {"labels": asked}) == pytest.approx(each[answered].mean().item(), rel=1e-4)
    assert each[answered].mean() != pytest.approx(each[~answered].mean().item(), rel=1e-3)


def test_hardness_shares_the_loss_between_teacher_and_labels() -> None:
    teacher, student, batch = models("tiny-bert", HEADS[0])

    def loss(hardness: float) -> float:
        config = DistillationConfig(hardness, hidden=0)
        return Distillation(teacher, config, kind_of(HEADS[0])).loss(student, batch)[0].item()

    assert loss(0) == pytest.approx(student(**batch).loss.item())
    assert loss(0.25) == pytest.approx(0.75 * loss(0) + 0.25 * loss(1))


def test_temperature_softens_both() -> None:
    teacher, student, batch = models("tiny-bert", HEADS[0])
    with torch.no_grad():
        goal, found = (torch.softmax(model(**batch).logits / 3, -1) for model in (teacher, student))
    expected = 9 * (goal * (goal.log() - found.log())).sum(-1).mean()
    config = DistillationConfig(temperature=3, hidden=0)
    loss, _ = Distillation(teacher, config, kind_of(HEADS[0])).loss(student, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    _, student, _ = models("tiny-bert", HEADS[0])
    for other, message in (
        (load("tiny-gpt2", HEADS[0])[0], "architecture.*bert.*gpt2"),
        (load("tiny-bert", HEADS[2])[0], "head.*classification.*language-modelling"),
        (load("tiny-bert", Head("classification", ("a", "b", "c")))[0], "labels.*2.*3"),
    ):
        with pytest.raises(ModelError, match=message):
            Distillation(other, DistillationConfig(), kind_of(HEADS[0])).check(student)
    with pytest.raises(ModelError, match="copy"):
        Distillation(student, DistillationConfig(), kind_of(HEADS[0])).check(student)
