"""Spans: windows that cover a context, the best span, answers over all windows, and training until they are right."""

from __future__ import annotations

import copy
import itertools
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import DataError, ModelError
from aerogel.evaluation import evaluate, score
from aerogel.models import Head, load, prunable_weights, save
from aerogel.models.logits import PADDING_LOGIT
from aerogel.pruning import Calibration, PruneConfig, prune
from aerogel.report import build_report
from aerogel.study import parse_spec, run_study
from aerogel.tasks import TASKS, InputSettings, TaskData, load_task
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.kinds.question_answering import ANSWER_TOKENS, _best_span
from aerogel.tasks.predictions import Answers, Inputs, Predictions
from aerogel.tasks.questions import Question, Questions
from aerogel.tasks.rows import Rows, match_columns
from aerogel.training import GradualPruning, TrainingConfig, finetune
from builders import NOUNS, prose

KIND: Any = all_kinds()["question_answering"]
TASK = TASKS["squad_v2"]
MODELS = ("tiny-bert", "tiny-gpt2", "tiny-bart")
COLOURS = ("red", "blue", "green", "yellow")


def questions(count: int, unanswerable: float = 0.0, seed: int = 0) -> Questions:
    """Which colour does the text name? The share `unanswerable` of the texts names none."""
    draw = random.Random(seed)
    several = []
    for _ in range(count):
        words = [draw.choice(NOUNS) for _ in range(draw.randrange(4, 9))]
        place, colour = draw.randrange(len(words)), draw.choice(COLOURS)
        start = len(" ".join([*words[:place], ""]))
        named = draw.random() >= unanswerable
        if named:
            words.insert(place, colour)
        several.append(Question("Which colour?", " ".join(words), ((colour, start),) if named else ()))
    return Questions(several, unanswerable > 0)


def made(content: Questions) -> TaskData:
    return TaskData(TASK, {"train": content, "validation": content}, "made")


@cache
def loaded(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    torch.manual_seed(0)
    return load(name, TASK.head)


def share_of_zeros(model: PreTrainedModel) -> float:
    weights = [weight.matrix for weight in prunable_weights(model)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def long_question(seed: int, lines: int) -> Question:
    context, draw = prose(lines, seed), random.Random(seed)
    start = draw.choice([place for place in range(len(context) - 1) if context[place : place + 1].isalpha()])
    text = context[start : start + draw.randrange(1, 40)].rstrip()
    return Question("Where did the horse stand, and on which day was that?", context, ((text, start),))


@given(
    st.sampled_from(MODELS),
    st.integers(0, 1000),
    st.integers(1, 20),
    st.integers(12, 90),
    st.sampled_from(["", " è🐎" * 9]),
)
@settings(max_examples=40)
def test_windows_cover_the_context_and_overlap(name: str, seed: int, lines: int, length: int, more: str) -> None:
    model, tokenizer = loaded(name)
    question = long_question(seed, lines)
    question = Question(question.text + more, question.context, question.answers)
    inputs = KIND.inputs(Questions([question], False), tokenizer, model.config, InputSettings(max_length=length))
    [(text, start)] = question.answers
    covered: list[set[int]] = []
    for row, offsets in zip(inputs.rows, inputs.examples.offsets, strict=True):
        first, end = row["context"]
        assert first <= length // 2 + 2  # at most half of the room for the question
        assert len(row["input_ids"]) == len(offsets) <= length
        assert not offsets[:first].any()
        assert not offsets[end:].any()
        characters = {place for begin, stop in offsets[first:end].tolist() for place in range(begin, stop)}
        assert not covered or covered[-1] & characters  # consecutive windows overlap
        covered.append(characters)
        wanted = {place for place in range(start, start + len(text)) if not text[place - start].isspace()}
        begin, last = row["labels"]
        assert bool(last) == (wanted <= characters)
        if last:
            assert first <= begin <= last < end
            inside = [wanted & set(range(*offsets[place])) for place in (begin, last)]
            assert all(inside)
            assert wanted <= set(range(offsets[begin, 0], offsets[last, 1]))
    visible = {place for place, letter in enumerate(question.context) if not letter.isspace()}
    assert visible <= set.union(*covered)
    assert any(row["labels"][1] for row in inputs.rows) or len(tokenizer(text)["input_ids"]) > length // 4


def test_a_window_without_room_is_refused() -> None:
    model, tokenizer = loaded("tiny-bert")
    with pytest.raises(DataError, match=r"5 tokens.*\b6\b"):
        KIND.inputs(questions(1), tokenizer, model.config, InputSettings(max_length=5))
    assert KIND.inputs(questions(1), tokenizer, model.config, InputSettings(max_length=6)).rows


def test_a_slow_tokenizer_is_refused() -> None:
    model, _ = loaded("tiny-bert")
    with pytest.raises(ModelError, match="ByT5Tokenizer"):
        KIND.inputs(questions(1), transformers.ByT5Tokenizer(), model.config, InputSettings())


@given(st.integers(1, 5), st.integers(2, 50), st.integers(0, 1000))
def test_the_best_span_is_the_best_of_all(windows: int, positions: int, seed: int) -> None:
    starts, ends = torch.randn(2, windows, positions, generator=torch.Generator().manual_seed(seed))
    first, last = _best_span(starts, ends)
    for window in range(windows):
        spans = {
            (begin, end): float(starts[window, begin] + ends[window, end])
            for begin in range(1, positions)
            for end in range(begin, min(begin + ANSWER_TOKENS, positions))
        }
        assert (int(first[window]), int(last[window])) == max(spans, key=spans.__getitem__, default=(1, 1))


def predicted(inputs: Inputs, logits: Any) -> Predictions:
    """The answers of a split, in batches of different widths, where `logits` are those of a row: (2, tokens)."""
    parts = []
    for rows in inputs.batches():
        batch = inputs.collate([inputs.rows[row] for row in rows])
        width = batch["input_ids"].shape[1]
        padded = torch.full((2, len(rows), width), 9.0)  # higher than all others, but not in the context
        for place, row in enumerate(rows):
            values = logits(inputs.rows[row])
            padded[:, place, : values.shape[1]] = values
        output = transformers.modeling_outputs.QuestionAnsweringModelOutput(
            start_logits=padded[0], end_logits=padded[1]
        )
        predictions = KIND.predictions(KIND.answers(output, batch, None))
        predictions.rows[:] = np.array(rows)[predictions.rows]
        parts.append(predictions)
    return KIND.complete(inputs, Predictions.joined(parts))


def right_logits(row: dict[str, Any]) -> Tensor:
    logits = torch.zeros(2, len(row["input_ids"]))
    logits[[0, 1], row["labels"]] = 5.0
    return logits


@pytest.mark.parametrize("name", MODELS)
def test_windows_with_right_logits_give_right_answers(name: str) -> None:
    model, tokenizer = loaded(name)
    content = [
        Question("Which day?", context := prose(lines, lines), ((word := context.split()[5], context.find(word)),))
        for lines in (2, 9, 5, 1)
    ]
    content += [Question("Which?", prose(7), ()), Question("Which?", "The boat; one.", (("one", 10), ("The boat", 0)))]
    content = Questions(content, True)
    inputs = KIND.inputs(content, tokenizer, model.config, InputSettings(max_length=64, batch_size=2))
    assert len(inputs.rows) > len(content)
    found = predicted(inputs, right_logits)
    assert found.rows.tolist() == list(range(6))
    result = KIND.score(TASK, inputs, found, model.config)
    assert result.metrics == {"squad_f1": 1.0, "exact_match": 1.0}
    assert result.counts == {"examples": 6}
    assert result.predictions == result.references
    assert result.references[4:] == ("", "one")

    second = Questions([Question("Which?", "The boat; one.", (("The boat", 0), ("one", 10)))], False)
    inputs = KIND.inputs(second, tokenizer, model.config, InputSettings())
    [end] = [place for place, part in enumerate(inputs.examples.offsets[0]) if "one" in "The boat; one."[slice(*part)]]
    found = predicted(inputs, lambda row: torch.eye(len(row["input_ids"]))[[end, end]])
    assert (found.values, found.references) == (["boat"], ["boat"])  # the other right answer counts as the first


def test_no_answer_needs_data_that_has_such_and_every_window() -> None:
    model, tokenizer = loaded("tiny-bert")
    question = Question("Which?", prose(9), (("The", 0),))
    for has_unanswerable, elsewhere in itertools.product((True, False), (3.0, 0.0)):
        content = Questions([question], has_unanswerable)
        inputs = KIND.inputs(content, tokenizer, model.config, InputSettings(max_length=32))
        assert len(inputs.rows) > 3
        second = inputs.rows[1]
        logits = {id(row): torch.zeros(2, len(row["input_ids"])) for row in inputs.rows}  # of no answer and of a token
        for row in inputs.rows:
            logits[id(row)][:, 0] = 2.0 if row is second else elsewhere
            logits[id(row)][:, row["context"][0] + 1] = 1.0 if row is second else 0.5
        answer = predicted(inputs, lambda row, logits=logits: logits[id(row)]).values[0]
        first, last = inputs.examples.offsets[1][second["context"][0] + 1]
        expected = question.context[first:last].lower().strip()
        assert answer == ("" if has_unanswerable and elsewhere == 3.0 else expected)


@pytest.mark.parametrize("name", MODELS)
def test_only_the_context_and_the_first_position_have_logits(name: str) -> None:
    model, tokenizer = loaded(name)
    inputs = KIND.inputs(questions(6, 0.5), tokenizer, model.config, InputSettings())
    batch = inputs.collate(inputs.rows)
    with torch.no_grad():
        output = KIND.outputs(model, batch)
        answers = KIND.answers(output, batch, model)
    assert output.loss is None or "labels" in batch
    assert answers.rows.tolist() == [*range(6), *range(6)]
    assert answers.references.tolist() == [row["labels"][side] for side in (0, 1) for row in inputs.rows]
    logits = torch.cat([output.start_logits, output.end_logits])
    for own, given_logits, row in zip(answers.logits, logits, [*inputs.rows, *inputs.rows], strict=True):
        allowed = [0, *range(*row["context"])]
        assert own[allowed].tolist() == given_logits[allowed].tolist()
        assert (own == PADDING_LOGIT).sum() == len(own) - len(set(allowed))
    expected = [cross_entropy(part, batch["labels"][:, side]) for side, part in enumerate(logits.chunk(2))]
    assert KIND.loss(output, batch, model).item() == pytest.approx(float(sum(expected)) / 2, rel=1e-5)
    assert torch.isfinite(
        KIND.divergence(answers, Answers(answers.logits * 0.9, answers.references, answers.rows))
    ).all()


def test_calibration_rows_are_windows_without_labels() -> None:
    model, tokenizer = loaded("tiny-bert")
    rows = KIND.calibration_rows(questions(40), tokenizer, model, InputSettings(2, 32, seed=3))
    assert all(set(row) == {"input_ids", "token_type_ids", "attention_mask"} for row in rows)
    lengths = [len(row["input_ids"]) for row in rows]
    assert lengths == sorted(lengths)
    assert 64 <= sum(lengths) < 64 + 32


def test_all_questions_of_a_context_are_held_out_or_none() -> None:
    content = questions(60)
    twice = Questions([*content.questions, *content.questions], False)
    parts = KIND.divide(twice, "made")
    contexts = [{question.context for question in parts[split].questions} for split in ("train", "validation")]
    assert not contexts[0] & contexts[1]
    assert sum(map(len, parts.values())) == 120
    assert KIND.divide(twice, "made") == parts
    with pytest.raises(DataError, match="made"):
        KIND.divide(Questions(content.questions[:1] * 9, False), "made")


def test_splits_without_any_answer_are_refused() -> None:
    rows = Rows(
        ("question", "context", "answers"), [{"question": "Q", "context": "C", "answers": None}] * 3, "gone.csv"
    )
    with pytest.raises(DataError, match=r"gone\.csv.*\b3\b"):
        KIND.read(TASK, {"train": rows})


@pytest.mark.parametrize(
    ("answers", "fits"),
    [({"text": ["x"], "answer_start": [0]}, True), ("the boat", True), ("yes", False), (1, False), (None, False)],
)
def test_answers_in_the_text_are_of_this_kind(answers: Any, fits: bool) -> None:
    row = {"question": "what", "context": "the boat", "answers": answers}
    assert KIND.fits(Rows(tuple(row), [row], "made")) == fits


def test_a_users_file_is_recognised(tmp_path: Path) -> None:
    rows = [{"query": q.text, "passage": q.context, "answer": q.answers[0][0]} for q in questions(8).questions]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_task(file)
    assert (data.task.kind, data.task.metrics) == (KIND, ("squad_f1", "exact_match"))
    assert data.splits["train"] == questions(8)
    assert match_columns(KIND.roles, list(rows[0]))["context"] == "passage"


def test_heads_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tiny = transformers.XLNetConfig(d_model=8, n_layer=1, n_head=1, d_inner=8, vocab_size=20)
    with pytest.raises(ModelError, match="XLNetForQuestionAnswering"):
        TASK.check_head(transformers.XLNetForQuestionAnswering(tiny), "load another")
    model, tokenizer = load("tiny-bert", Head("classification", ("a", "b", "c")))
    save(model, tokenizer, tmp_path)
    found, _ = load(tmp_path, TASK.head)  # its configuration says three labels
    assert found(torch.tensor([[1, 2, 3]])).start_logits.shape == (1, 3)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_trained_pruned_distilled_compared_and_rounded(name: str) -> None:
    torch.manual_seed(0)
    model, tokenizer = load(name, TASK.head)
    data = made(questions(64, 0.3))
    before = score(model, tokenizer, data)
    rate = {"tiny-bart": 5e-4}.get(name, 1e-3)
    finetune(model, tokenizer, data, TrainingConfig(epochs=8, batch_size=8, learning_rate=rate))
    after = score(model, tokenizer, data)
    assert after.metrics["squad_f1"] > max(0.9, before.metrics["squad_f1"])
    assert after.metrics["exact_match"] <= after.metrics["squad_f1"]

    sparse = copy.deepcopy(model)
    prune(sparse, method="wanda", sparsity=0.6, calibration=Calibration(data, tokenizer, 8, 32, at_most=True))
    found = evaluate(sparse, tokenizer, data, reference=model)["squad_v2"]
    assert found["kl"] > 0
    assert found["dense_squad_f1"] == after.metrics["squad_f1"]
    assert found["flipped"] == round((1 - found["agreement"]) * found["examples"])
    assert found["lost"] - found["gained"] == round((found["dense_exact_match"] - found["exact_match"]) * 64)
    config = TrainingConfig(epochs=2, batch_size=8, learning_rate=rate)
    finetune(sparse, tokenizer, data, config, teacher=model)
    assert evaluate(sparse, tokenizer, data, reference=model)["squad_v2"]["kl"] < found["kl"]
    assert share_of_zeros(sparse) == pytest.approx(0.6, abs=0.01)

    gradual = copy.deepcopy(model)
    config = TrainingConfig(epochs=5, batch_size=8, learning_rate=rate)
    pruning = GradualPruning(PruneConfig("magnitude", sparsity=0.5))
    finetune(gradual, tokenizer, data, config, sparsity=pruning, teacher=model, values="int8")
    assert share_of_zeros(gradual) == pytest.approx(0.5, abs=0.01)
    assert score(gradual, tokenizer, data).metrics["squad_f1"] > 0.5


@pytest.mark.slow
def test_a_study_compares_answers(tmp_path: Path) -> None:
    rows = [
        {"question": q.text, "context": q.context, "answers": [text for text, _ in q.answers]}
        for q in questions(40, 0.3).questions
    ]
    file = tmp_path / "colours.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = parse_spec(
        {
            "name": "answers",
            "models": ["tiny-bert"],
            "tasks": [str(file)],
            "sparsities": [0, 0.8],
            "seeds": [0],
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
            "benchmark": None,
        }
    )
    run_study(spec, tmp_path / "study")
    page = build_report(tmp_path / "study").read_text(encoding="utf-8")
    assert "exact match" in page.lower()
