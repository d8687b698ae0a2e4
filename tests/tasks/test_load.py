"""Tasks are found in folders, in files, on the hub or among the starters, in that order."""

import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from aerogel.errors import AerogelWarning, DataError
from aerogel.models import load
from aerogel.tasks import TASKS, load_for, load_task
from builders import prose, sentences, write_tsv

LABEL = ("sentence", "label")


# a user's own files


def test_a_file_of_two_classes(tmp_path: Path) -> None:
    rows = [(text, "praise" if label else "blame") for text, label in sentences(200)]
    data = load_task(str(write_tsv(tmp_path / "moods.tsv", rows))).divided()
    task = data.task
    assert (task.name, task.columns, task.labels) == ("moods", {}, ("blame", "praise"))
    assert task.metrics == ("accuracy", "f1")
    assert task.head.labels == ("blame", "praise")
    train, validation = data.split("train"), data.split("validation")
    assert len(train) + len(validation) == 200
    assert sorted(train.texts + validation.texts) == sorted((text,) for text, _ in rows)
    numbers = {text: task.labels.index(label) for text, label in rows}
    for part in (train, validation):
        assert [numbers[text] for (text,) in part.texts] == part.labels
    assert data.source == f"{tmp_path / 'moods.tsv'} (train alone, a fifth of it held out)"


def test_a_file_of_three_classes_and_two_columns(tmp_path: Path) -> None:
    rows = [(f"first {place}", f"second {place}", place % 3 + 1) for place in range(120)]
    data = load_task(str(write_tsv(tmp_path / "pairs.tsv", rows, ("sentence1", "sentence2", "label"))))
    assert data.task.labels == ("1", "2", "3")
    assert data.task.metrics == ("accuracy",)
    examples = data.split("train")
    assert all(
        label == (int(first.split()[1]) % 3) for (first, _), label in zip(examples.texts, examples.labels, strict=True)
    )


def test_a_text_file_is_divided_at_a_line(tmp_path: Path) -> None:
    text = prose(100)
    (tmp_path / "story.txt").write_text(text)
    data = load_task(str(tmp_path / "story.txt")).divided()
    assert data.task.kind_name == "language_modelling"
    assert data.split("train") + data.split("validation") == text
    assert data.split("train").endswith("\n")
    assert 0.15 * len(text) < len(data.split("validation")) <= 0.2 * len(text)


@given(st.lists(st.text("abc", min_size=1), min_size=40, unique=True))
def test_a_row_always_falls_on_the_same_side(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    sides: list[dict[tuple[str, ...], str]] = []
    for name, chosen in (("all.tsv", texts), ("some.tsv", texts[::-2])):
        rows = [(text, zlib.crc32(text.encode()) % 2) for text in chosen] + [("fixed a", 0), ("fixed b", 1)]
        try:
            data = load_task(str(write_tsv(folder / name, rows))).divided()
        except DataError as error:
            assert "held out" in str(error) or "hold out" in str(error)  # noqa: PT017 - all rows may fall on one side
            return
        sides.append({text: split for split in ("train", "validation") for text in data.split(split).texts})
    assert all(sides[0][text] == side for text, side in sides[1].items())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("one.tsv", "sentence\tlabel\nthe only\t1\n", "all rows have the label"),
        ("two.tsv", "sentence\tlabel\na\t1\na\t0\n", r"two\.tsv has 2 rows, too few to hold out a part"),
        ("empty.tsv", "", "the file is empty"),
        ("empty.txt", " \n", "the file is empty"),
        ("short.txt", "a single line without an end", r"short\.txt.* 28 characters"),
        ("short.txt", "a single line\n", r"short\.txt.* 14 characters"),
        ("short.txt", "much text on the first line, then a blank one\n\n\n", r"short\.txt.* 48 characters"),
    ],
)
def test_files_too_small_to_divide_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        load_task(str(tmp_path / name)).divided()


@pytest.mark.parametrize("name", ["nothing.tsv", "nothing.txt"])
def test_a_file_of_that_name_must_be_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: no such file"):
        load_task(str(tmp_path / name))
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"{name}: no such file"):
        load_task(str(tmp_path / name))


# columns and kinds


def test_columns_are_guessed_and_described(tmp_path: Path) -> None:
    write_tsv(tmp_path / "own.tsv", [("fine", 5), ("poor", 1)], ("Review", "stars"))
    data = load_task(tmp_path / "own.tsv")
    assert data.columns == {"text": "Review", "label": "stars"}
    for part in ("text = Review", "label = stars", "sentence_classification"):
        assert part in data.description
    assert load_task("movie-reviews").description == ""


def test_a_wrong_guess_is_mended(tmp_path: Path) -> None:
    write_tsv(tmp_path / "own.tsv", [("a1", "b1", 1, "x"), ("a2", "b2", 2, "y")], ("text", "title", "label", "mood"))
    data = load_task(tmp_path / "own.tsv", columns={"text": "title", "label": "mood"})
    assert (data.split("train").texts, data.task.labels) == ([("b1",), ("b2",)], ("x", "y"))
    for columns, named in ({"text": "titel"}, "title"), ({"txet": "title"}, "text"):
        with pytest.raises(DataError, match=f"did you mean .*{named}"):
            load_task(tmp_path / "own.tsv", columns=columns)


@pytest.mark.parametrize("kind", ["sentence_regression", "sentence-regression"])
def test_the_kind_may_be_given(tmp_path: Path, kind: str) -> None:
    file = write_tsv(tmp_path / "own.tsv", [("a", 1), ("b", 2)])
    assert load_task(file).task.kind_name == "sentence_classification"
    for data in (load_task(file, kind=kind), load_task(f"{kind}:{file}")):
        assert (data.task.name, data.task.kind_name) == ("own", "sentence_regression")
        assert data.split("train").labels == [1, 2]
    assert load_task("language_modelling:movie-reviews").split("validation").count("\n") > 1000


def test_unknown_kinds_are_answered_with_the_nearest(tmp_path: Path) -> None:
    file = write_tsv(tmp_path / "own.tsv", [("a", 1), ("b", 2)])
    with pytest.raises(DataError, match="did you mean sentence_regression"):
        load_task(file, kind="sentence_regresion")
    with pytest.raises(DataError, match="did you mean sentence_regression"):
        load_task("sentence_regresion:movie-reviews")


def test_columns_of_no_kind_are_refused_with_those_of_the_kinds(tmp_path: Path) -> None:
    file = write_tsv(tmp_path / "own.tsv", [("a", 1), ("b", 2)], ("sentense", "lable"))
    with pytest.raises(DataError, match=r"own\.tsv.*sentense, lable") as raised:
        load_task(file)
    for part in ("did you mean sentence", "--columns", "own-data"):
        assert part in str(raised.value)


def test_columns_are_suggested_by_their_values(tmp_path: Path) -> None:
    rows = [(n, ["low", "high"][n % 2], f"2026-01-{n:02}", f"Printer {n} is out of paper.") for n in range(10, 30)]
    file = write_tsv(tmp_path / "tickets.tsv", rows, ("id", "priority", "opened on", "body"))
    with pytest.raises(DataError, match="--columns text=body,label=priority ") as raised:
        load_task(file)
    assert len(str(raised.value)) < 300 + len(str(file))
    data = load_task(file, columns={"text": "body", "label": "priority"})
    assert data.task.labels == ("high", "low")
    numbers = [{"width": n, "height": n / 2} for n in range(20)]
    with pytest.raises(DataError, match="--columns ROLE=NAME "):
        load_task(numbers)
    with pytest.raises(DataError, match="--columns 'text=opened on' "):
        load_task([{"opened on": f"day {n}", "rank": n} for n in range(20)])


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"question": "q", "context": "a b", "answers": "c"}], "row 1, column answers: .*'c'"),
        ([{"tokens": ["a", "b"], "tags": ["O", "B-x"]}, {"tokens": ["a"], "tags": []}], "row 2, column tags"),
        ([{"source": "a", "target": "b"}, {"source": "c", "target": None}], "row 2, column target"),
        ([{"image": "no.png", "label": 1}, {"image": "no.png", "label": 2}], r"row 1, column image: .*no\.png"),
        ([{"text": "a", "score": 0.5}, {"text": "b", "score": 1}, {"text": "c", "score": "x"}], "row 3, column score"),
        ([{"text": "a", "score": 0.5}, {"text": "b", "score": 1}, {"text": "c"}], "row 3, column score"),
    ],
)
def test_values_that_do_not_fit_the_kind_of_the_columns_are_refused(rows: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(DataError, match=f"data in memory, {named}"):
        load_task(rows)


def test_a_value_that_is_the_same_everywhere_is_refused() -> None:
    for kind in ("sentence_regression", "sentence_embedding"):
        with pytest.raises(DataError, match=r"0\.5"):
            load_task([{"sentence1": text, "sentence2": "b", "score": 0.5} for text in "acd"], kind=kind)


def test_two_roles_with_one_column_are_refused() -> None:
    with pytest.raises(DataError, match="text and label"):
        load_task([{"text": "a"}, {"text": "b"}], columns={"text": "text", "label": "text"})


def test_data_is_read_for_the_head_of_a_model() -> None:
    model, _ = load("tiny-gpt2")
    rows = [{"text": text, "label": label} for text, label in sentences(60)]
    with pytest.warns(AerogelWarning, match="GPT2LMHeadModel"):
        data = load_for(model, rows)
    assert data.task.kind_name == "language_modelling"
    assert data.split("train").splitlines() == [row["text"] for row in rows]
    data = load_task(rows)
    assert load_for(model, data) is data
    classifier, _ = load("tiny-gpt2", data.task.head)
    assert load_for(classifier, rows) == data
    assert load_for(classifier, "python-reference").task.kind_name == "language_modelling"  # which has no labels


# a folder of tasks


def test_a_folder_stands_in_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tsv(tmp_path / "sst2" / "train.tsv", [("well done", 1), ("badly done", 0)])
    write_tsv(tmp_path / "sst2" / "validation.tsv", [("fine", "positive")])
    data = load_task("sst2", tmp_path)
    assert data.task is TASKS["sst2"]
    assert data.split("train").labels == [1, 0]
    assert data.split("validation").texts == [("fine",)]
    assert data.source == str(tmp_path / "sst2")
    monkeypatch.setenv("AEROGEL_DATA", str(tmp_path))
    assert load_task("sst2") == data


def test_a_folder_stands_in_for_a_starter_task(tmp_path: Path) -> None:
    rows = sentences(60)
    write_tsv(tmp_path / "movie-reviews" / "train.tsv", rows)
    write_tsv(tmp_path / "movie-reviews" / "validation.tsv", rows)
    assert load_task("movie-reviews", tmp_path).source == str(tmp_path / "movie-reviews")
    assert load_task("python-reference", tmp_path).source == "starter task"


@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_split_is_whole_until_it_is_divided(tmp_path: Path, split: Any) -> None:
    rows = sentences(100)
    write_tsv(tmp_path / "sst2" / f"{split}.tsv", rows)
    data = load_task("sst2", tmp_path)
    for either in ("train", "validation"):
        assert data.split(either).texts == [(text,) for text, _ in rows]
    assert data.source.startswith(f"{tmp_path / 'sst2'} (all rows")
    divided = data.divided()
    assert 0 < len(divided.split("validation")) < len(divided.split("train"))
    assert len(divided.split("validation")) + len(divided.split("train")) == 100
    assert divided.source.endswith(f"({split} alone, a fifth of it held out)")
    assert divided.divided() == divided
    assert data.digest != divided.digest == load_task("sst2", tmp_path).divided().digest


def test_two_splits_are_never_divided(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_tsv(tmp_path / "sst2" / f"{split}.tsv", sentences(20))
    data = load_task("sst2", tmp_path)
    assert data.divided() is data


def test_a_training_split_of_one_class_is_refused(tmp_path: Path) -> None:
    write_tsv(tmp_path / "sst2" / "train.tsv", [("well done", 1), ("fine", 1)])
    assert len(load_task("sst2", tmp_path).split("validation")) == 2  # it may be scored
    write_tsv(tmp_path / "sst2" / "validation.tsv", [("well done", 1), ("poor", 0)])
    with pytest.raises(DataError, match=r"train\.tsv.*'positive'"):
        load_task("sst2", tmp_path)


def test_paths_are_taken_like_names(tmp_path: Path) -> None:
    file = write_tsv(tmp_path / "moods.tsv", sentences(20))
    assert load_task(file) == load_task(str(file))


@pytest.mark.parametrize("name", [None, 3, ["sst2"], b"sst2"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(DataError, match=f"expected the name of a task.* found {type(name).__name__} "):
        load_task(name)


def test_text_of_both_splits_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "wikitext-2").mkdir()
    (tmp_path / "wikitext-2" / "train.txt").write_text("to learn from")
    (tmp_path / "wikitext-2" / "validation.txt").write_text("to be asked")
    data = load_task("wikitext-2", tmp_path)
    assert data.task is TASKS["wikitext-2"]
    assert (data.split("train"), data.split("validation")) == ("to learn from", "to be asked")


def test_regression_in_a_folder(tmp_path: Path) -> None:
    rows = [(f"text {place}", f"text {place // 2}", place / 10) for place in range(50)]
    write_tsv(tmp_path / "stsb" / "train.tsv", rows, ("sentence1", "sentence2", "label"))
    data = load_task("stsb", tmp_path).divided()
    assert data.task.kind_name == "sentence_regression"
    assert sorted(data.split("train").labels + data.split("validation").labels) == [n / 10 for n in range(50)]


def test_a_label_that_only_validation_has_is_refused(tmp_path: Path) -> None:
    write_tsv(tmp_path / "own" / "train.tsv", [("a", "x"), ("b", "y")])
    write_tsv(tmp_path / "own" / "validation.tsv", [("a", "x"), ("c", "z")])
    with pytest.raises(DataError, match=r"validation.tsv, line 3, column label: .*'z'.* 0 \(x\) or 1 \(y\)"):
        load_task("own", tmp_path)


@pytest.mark.parametrize(
    ("task", "files", "said"),
    [
        ("sst2", ["train.txt"], "train.txt has the columns text, .*label"),
        ("own", ["train.tsv", "validation.txt"], r"own: .*\.tsv.* or \.txt"),
        ("own", ["train.tsv", "train.txt"], r"own: .*\.tsv.* or \.txt"),
        ("own", ["rows.tsv"], r"own: .* none"),
        ("own", [], r"own: .* none"),
    ],
)
def test_files_that_do_not_fit_the_task_are_refused(tmp_path: Path, task: str, files: list[str], said: str) -> None:
    (tmp_path / task).mkdir()
    for name in files:
        write_tsv(tmp_path / task / name, sentences(60))
    with pytest.raises(DataError, match=said):
        load_task(task, tmp_path)


def test_names_of_nothing_are_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown task 'sts2': did you mean [^?]*sst2.*\.tsv.*\.txt"):
        load_task("sts2")
    (tmp_path / "sentiments").mkdir()
    with pytest.raises(DataError, match="did you mean sentiments"):
        load_task("sentiment", tmp_path)
    with pytest.raises(DataError, match="nowhere: no such data folder"):
        load_task("sst2", tmp_path / "nowhere")


def test_a_hub_that_is_out_of_reach_is_answered_with_the_ways_around(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="task mrpc: nyu-mll/glue") as raised:
        load_task("mrpc", tmp_path)
    for way in ("--data", "mrpc/train", "mrpc/validation", "movie-reviews", "python-reference", "offline"):
        assert way in str(raised.value)
    assert "\n" not in str(raised.value)
