"""Labels and texts are read exactly, and errors name the file, the line and the column."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from aerogel.errors import DataError
from aerogel.tasks import load_task
from aerogel.tasks.files import read_file
from aerogel.tasks.guess import role_columns
from aerogel.tasks.kind import Task
from aerogel.tasks.read import Examples, labels_of
from aerogel.tasks.rows import Rows
from aerogel.tasks.table import TASKS

MOOD = Task("mood", "sentence_classification", {}, ("sad", "glad"), ("accuracy",))


def read_examples(file: Path, task: Task) -> Examples:
    rows = read_file(file)
    return task.kind.read(task, {"train": rows.renamed(role_columns(task, rows, {}))})[1]["train"]


def label_rows(*labels: Any) -> Rows:
    return Rows(("label",), [{"label": label} for label in labels], "rows")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.tsv"


def write(file: Path, text: str) -> Path:
    file.write_bytes(text.encode())
    return file


# what is read


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("opening", ["", "\ufeff"])
@pytest.mark.parametrize("closing", [True, False])
def test_line_ends_and_byte_order_marks_change_nothing(file: Path, end: str, opening: str, closing: bool) -> None:
    text = end.join(["sentence\tlabel", "fine weather\tglad", "", "rain\tsad"]) + end * closing
    examples = read_examples(write(file, opening + text), MOOD)
    assert examples == Examples([("fine weather",), ("rain",)], [1, 0])


@pytest.mark.parametrize("text", ["x" * 200_000, "one\rtwo", "nul \0 byte", "\u2028 \u0085 \x0b \x1c"])
def test_odd_text_is_text(file: Path, text: str) -> None:
    examples = read_examples(write(file, f"sentence\tlabel\n{text}\t1\nplain\t0\n"), MOOD)
    assert examples.texts == [(text,), ("plain",)]


def test_columns_may_stand_anywhere_among_others(file: Path) -> None:
    write(file, "label\tid\tsentence2\tsentence1\n1\t7\tb\ta\n0\t8\td\tc\n")
    assert load_task(file).split("train").texts == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("header", ["question\tsentence\tlabel", "sentence1\tsentence2\tlabel"])
def test_a_task_is_read_by_its_own_columns_or_the_common_ones(file: Path, header: str) -> None:
    examples = read_examples(write(file, f"{header}\nwho?\tme\tnot_entailment\n"), TASKS["qnli"])
    assert examples == Examples([("who?", "me")], [1])


def test_labels_are_names_or_numbers(file: Path) -> None:
    write(file, "sentence\tlabel\na\tglad\nb\t1\nc\t sad \nd\t0\n")
    assert read_examples(file, MOOD).labels == [1, 1, 0, 0]


def test_numbers_to_predict(file: Path) -> None:
    write(file, "sentence1\tsentence2\tlabel\na\tb\t2.75\nc\td\t-1e1\ne\tf\t3\n")
    assert read_examples(file, TASKS["stsb"]).labels == [2.75, -10, 3]


def test_the_first_examples() -> None:
    examples = Examples([("a",), ("b",), ("c",)], [0, 1, 0])
    assert examples.first(2) == Examples([("a",), ("b",)], [0, 1])
    assert examples.first(9) == examples.first(None) == examples


# what is refused


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("text\tmood\na\t1\n", "text, mood.*label"),
        ("a fine day\t1\n", "no rows"),
        ("sentence,label\na,1\n", "sentence,label.*text"),
        ("sentence\tlabel\na\t1\nb\tangry\n", r"line 3, column label: .*'angry'; .*0 \(sad\) or 1 \(glad\)"),
        ("sentence\tlabel\na\t2\n", "line 2, column label: .*'2'"),
        ("sentence\tlabel\na\t-1\n", "line 2, column label: .*'-1'"),
        ("sentence\tlabel\na\t1.0\n", "line 2, column label: .*'1.0'"),
        ("sentence\tlabel\na\t²\n", "line 2, column label: .*'²'"),
        ("sentence\tlabel\na\t\n", "line 2, column label: .*''"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(file: Path, text: str, named: str) -> None:
    with pytest.raises(DataError, match=rf"rows\.tsv.*{named}"):
        read_examples(write(file, text), MOOD)


@pytest.mark.parametrize("label", ["", "high", "nan", "inf", "2,5"])
def test_a_number_to_predict_is_a_number(file: Path, label: str) -> None:
    write(file, f"sentence1\tsentence2\tlabel\na\tb\t1\nc\td\t{label}\n")
    with pytest.raises(DataError, match=f"rows.tsv, line 3, column label: .*'{label}'"):
        read_examples(file, TASKS["stsb"])


@pytest.mark.parametrize("text", [3, 2.5, None, float("nan"), ["a"], {"en": "a"}])
def test_a_text_is_a_text(text: Any) -> None:
    with pytest.raises(DataError, match="data in memory, row 2, column review"):
        load_task([{"review": "a", "label": 0}, {"review": text, "label": 1}])


@pytest.mark.parametrize("label", [None, float("nan"), "", " ", ["a"], {"name": "a"}, np.arange(2)])
def test_a_label_is_a_name_or_a_number(label: Any) -> None:
    with pytest.raises(DataError, match="data in memory, row 3, column label"):
        load_task([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": "c", "label": label}])


# labels of a user's own data


@pytest.mark.parametrize(
    ("found", "labels"),
    [
        (["1", "0", "1"], ("0", "1")),
        ([1.0, 0.0], ("0", "1")),
        ([True, False], ("False", "True")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["1", "-1"], ("-1", "1")),
        (["spam", "ham"], ("ham", "spam")),
        (["b", "3", "a"], ("3", "a", "b")),
        (["²", "1"], ("1", "²")),
    ],
)
def test_labels_are_put_in_order(found: list[Any], labels: tuple[str, ...]) -> None:
    assert labels_of(label_rows(*found)) == labels


def test_declared_labels_keep_their_order() -> None:
    rows = Rows(
        ("label",), [{"label": "glad"}, {"label": "sad"}], "rows", class_names={"label": ("sad", "so-so", "glad")}
    )
    assert labels_of(rows) == ("sad", "so-so", "glad")


@given(st.sets(st.integers(-50, 50), min_size=2))
def test_whole_numbers_are_ordered_as_numbers(numbers: set[int]) -> None:
    assert [int(label) for label in labels_of(label_rows(*numbers))] == sorted(numbers)


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (["1", "1"], "'1'"),
        ([f"name {place}" for place in range(101)], r"101 .*'name 0'.* 100"),
        (["a", "b", ""], "row 3"),
    ],
)
def test_labels_that_are_no_classes_are_refused(found: list[str], named: str) -> None:
    with pytest.raises(DataError, match=named):
        labels_of(label_rows(*found))


def test_numbered_labels_are_not_taken_by_their_place(file: Path) -> None:
    stars = Task("stars", "sentence_classification", {}, ("1", "2"), ("accuracy",))
    assert read_examples(write(file, "sentence\tlabel\na\t2\nb\t1\n"), stars).labels == [1, 0]
    with pytest.raises(DataError, match=r"line 2.*'0'.*1 or 2"):
        read_examples(write(file, "sentence\tlabel\na\t0\n"), stars)
