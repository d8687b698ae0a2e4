"""TSV and text files are read exactly, and errors name the file and the line."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from aerogel.errors import DataError
from aerogel.tasks.kind import Task
from aerogel.tasks.read import Examples, labels_of, read_rows, read_text
from aerogel.tasks.table import TASKS

MOOD = Task("mood", "sentence_classification", ("sentence",), ("sad", "glad"), ("accuracy",))
FIELD = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]))


def read_examples(file: Path, task: Task) -> Examples:
    return task.kind.read(task, {"train": file})[1]["train"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.tsv"


def write(file: Path, text: str) -> Path:
    file.write_bytes(text.encode())
    return file


# what is read


@given(st.lists(st.tuples(FIELD, FIELD, st.sampled_from(["0", "1", "sad", "glad"])), min_size=1), st.booleans())
def test_fields_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], windows: bool
) -> None:
    end = "\r\n" if windows else "\n"
    lines = ["id\tlabel\tsentence", *(f"{other}\t{label}\t{text}" for other, text, label in rows)]
    file = write(tmp_path_factory.mktemp("rows") / "rows.tsv", end.join(lines) + end)
    examples = read_examples(file, MOOD)
    assert examples.texts == [(text,) for _, text, _ in rows]
    assert examples.labels == [{"sad": 0, "0": 0, "glad": 1, "1": 1}[label] for *_, label in rows]
    assert len(examples) == len(rows)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("opening", ["", "\ufeff"])
@pytest.mark.parametrize("closing", [True, False])
def test_line_ends_and_byte_order_marks_change_nothing(file: Path, end: str, opening: str, closing: bool) -> None:
    text = end.join(["sentence\tlabel", "fine weather\tglad", "", "rain\tsad"]) + end * closing
    examples = read_examples(write(file, opening + text), MOOD)
    assert examples == Examples([("fine weather",), ("rain",)], [1, 0])


def test_quotation_marks_are_plain_characters(file: Path) -> None:
    text = 'sentence\tlabel\n"open\t1\n"closed"\t0\nit\'s 5" long\t1\n'
    assert read_examples(write(file, text), MOOD).texts == [('"open',), ('"closed"',), ("it's 5\" long",)]


@pytest.mark.parametrize("text", ["x" * 200_000, "one\rtwo", "nul \0 byte", "\u2028 \u0085 \x0b \x1c"])
def test_odd_text_is_text(file: Path, text: str) -> None:
    examples = read_examples(write(file, f"sentence\tlabel\n{text}\t1\nplain\t0\n"), MOOD)
    assert examples.texts == [(text,), ("plain",)]


def test_columns_may_stand_anywhere_among_others(file: Path) -> None:
    write(file, "label\tid\tsentence2\tsentence1\n1\t7\tb\ta\n")
    assert read_rows(file) == (("sentence1", "sentence2"), [(("a", "b"), "1", 2)])


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
    ("text", "said"),
    [
        ("", "rows.tsv: the file is empty"),
        (" \n\r\n\ufeff\n"[:4], "rows.tsv: the file is empty"),
        ("\ufeff", "rows.tsv: the file is empty"),
        ("sentence\tlabel\n", "rows.tsv: .* no rows"),
        ("sentence\tlabel\n\n\r\n", "rows.tsv: .* no rows"),
        ("text\tlabel\na\t1\n", "rows.tsv, line 1: the header has text, label; expected columns sentence, and label"),
        ("sentence\tmood\na\t1\n", "line 1: the header has sentence, mood; expected columns sentence, and label"),
        ("a fine day\t1\n", "line 1: the header has a fine day, 1; expected"),
        ("sentence,label\na,1\n", "line 1: the header has sentence,label; expected"),
        ("sentence\tlabel\na\t1\nb\n", "rows.tsv, line 3: 1 fields, expected 2"),
        ("sentence\tlabel\na\t1\n\nb\tc\t0\n", "rows.tsv, line 4: 3 fields, expected 2"),
        ("sentence\tlabel\na\t1\nb\tangry\n", r"line 3: wrong label 'angry'; expected 0 \(sad\) or 1 \(glad\)"),
        ("sentence\tlabel\na\t2\n", "line 2: wrong label '2'; expected"),
        ("sentence\tlabel\na\t-1\n", "line 2: wrong label '-1'; expected"),
        ("sentence\tlabel\na\t1.0\n", "line 2: wrong label '1.0'; expected"),
        ("sentence\tlabel\na\t²\n", "line 2: wrong label '²'; expected"),
        ("sentence\tlabel\na\t\n", "line 2: wrong label ''; expected"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(file: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_examples(write(file, text), MOOD)


@pytest.mark.parametrize("label", ["", "high", "nan", "inf", "2,5"])
def test_a_number_to_predict_is_a_number(file: Path, label: str) -> None:
    write(file, f"sentence1\tsentence2\tlabel\na\tb\t1\nc\td\t{label}\n")
    with pytest.raises(DataError, match=f"rows.tsv, line 3: label '{label}' is not a number"):
        read_examples(file, TASKS["stsb"])


@pytest.mark.parametrize(("before", "line"), [(b"", 1), (b"sentence\tlabel\na\t1\n", 3), (b"a\r\nb\r\n", 3)])
def test_bad_utf8_is_said_with_its_line(file: Path, before: bytes, line: int) -> None:
    file.write_bytes(before + b"caf\xe9\t1\n")
    with pytest.raises(DataError, match=rf"rows.tsv, line {line}: not UTF-8 \(byte 0xe9\)"):
        read_text(file)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing.txt: can't be read: No such file"):
        read_text(tmp_path / "nothing.txt")
    with pytest.raises(DataError, match="can't be read: Is a directory"):
        read_text(tmp_path)


# labels of a user's own file


@pytest.mark.parametrize(
    ("found", "labels"),
    [
        (["1", "0", "1"], ("0", "1")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["1", "-1"], ("-1", "1")),
        (["spam", "ham"], ("ham", "spam")),
        (["b", "3", "a"], ("3", "a", "b")),
        (["²", "1"], ("1", "²")),
    ],
)
def test_labels_are_put_in_order(file: Path, found: list[str], labels: tuple[str, ...]) -> None:
    write(file, "sentence\tlabel\n" + "".join(f"text\t{label}\n" for label in found))
    assert labels_of(file) == (("sentence",), labels)


@given(st.sets(st.integers(-50, 50), min_size=2))
def test_whole_numbers_are_ordered_as_numbers(tmp_path_factory: pytest.TempPathFactory, numbers: set[int]) -> None:
    file = write(
        tmp_path_factory.mktemp("rows") / "rows.tsv", "sentence\tlabel\n" + "".join(f"text\t{n}\n" for n in numbers)
    )
    _, labels = labels_of(file)
    assert [int(label) for label in labels] == sorted(numbers)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (["1", "1"], "all rows have the label '1'; expected at least two labels"),
        ([f"name {place}" for place in range(101)], r"101 .*'name 0'.* 100"),
        (["a", "b", ""], "line 4: the row has no label"),
    ],
)
def test_labels_that_are_no_classes_are_refused(file: Path, found: list[str], said: str) -> None:
    write(file, "sentence\tlabel\n" + "".join(f"text\t{label}\n" for label in found))
    with pytest.raises(DataError, match=said):
        labels_of(file)


def test_numbered_labels_are_not_taken_by_their_place(file: Path) -> None:
    stars = Task("stars", "sentence_classification", ("sentence",), ("1", "2"), ("accuracy",))
    assert read_examples(write(file, "sentence\tlabel\na\t2\nb\t1\n"), stars).labels == [1, 0]
    with pytest.raises(DataError, match=r"line 2: wrong label '0'; expected 1 or 2"):
        read_examples(write(file, "sentence\tlabel\na\t0\n"), stars)
