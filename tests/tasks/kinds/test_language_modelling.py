"""The positions that are scored: every next token, the masked ones, or the whole text."""

import pytest
import torch

from aerogel.models import load
from aerogel.tasks import IGNORED, TASKS, InputSettings
from aerogel.tasks.kind import all_kinds
from aerogel.tasks.rows import Rows
from builders import prose

KIND = all_kinds()["language_modelling"]
TEXT = prose(40)


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_answers_stand_where_there_is_something_to_predict(name: str) -> None:
    model, tokenizer = load(name)
    inputs = KIND.inputs(TEXT, tokenizer, model.config, InputSettings(limit=3))
    batch = inputs.collate(inputs.rows)
    with torch.no_grad():
        output = model(**batch)
    answers = KIND.answers(output, batch, model)
    shift = name == "tiny-gpt2"
    expected = [
        (row, place, int(label))
        for row, labels in enumerate(batch["labels"])
        for place, label in enumerate(labels)
        if label != IGNORED and place >= shift
    ]
    assert answers.rows.tolist() == [row for row, _, _ in expected]
    assert answers.references.tolist() == [label for _, _, label in expected]
    for logits, (row, place, _) in zip(answers.logits, expected, strict=True):
        assert torch.equal(logits, output.logits[row, place - shift])


def test_a_batch_holds_as_many_tokens_as_are_set() -> None:
    model, tokenizer = load("tiny-gpt2")
    for tokens in (1, 64, 200, 4096):
        inputs = KIND.inputs(TEXT, tokenizer, model.config, InputSettings(batch_tokens=tokens))
        assert inputs.batch_size == max(1, tokens // len(inputs.rows[0]["labels"]))
        assert not inputs.by_length


@pytest.mark.parametrize(("texts", "joined"), [(["a\n", "", "b"], "a\nb"), (["a", "", "b"], "a\n\nb"), (["a"], "a")])
def test_rows_are_one_text(texts: list[str], joined: str) -> None:
    rows = Rows(("text",), [{"text": text} for text in texts], "rows")
    assert KIND.read(TASKS["wikitext-2"], {"train": rows})[1] == {"train": joined}
