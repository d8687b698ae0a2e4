"""For any arguments and files, a command ends with a known exit code and at most one error sentence."""

import contextlib
import io
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from aerogel.cli.main import aerogel, run

NOWHERE = "./nowhere"  # fails after all arguments are checked, before torch is imported
NUMBERS = (
    "0",
    "-1",
    "90",
    "0.5",
    "50%",
    "%",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1" * 5000,
    f"1{'0' * 30}",
    "0x10",
    "५",
    "",
)
TEXTS = (
    "..",
    "/dev/null",
    "/dev/full/x",
    "x" * 300,
    "a,b",
    "=1+1",
    "\x1b[31m",
    "<b>",
    "é\ud800",
    "--",
    "no.tsv",
    "no.txt",
)
SCALARS = (
    None,
    True,
    -1,
    0,
    10**30,
    -(10**400),
    1.5,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
)
HOSTILE = (
    *SCALARS,
    "1",
    1,
    "=1+1",
    "\0",
    "<script>",
    "]]>",
    "\ud800",
    [],
    {},
    [[[]]],
    {"": 1},
    [None],
    ["a"],
    [0.5, "x"],
)


def exit_code(*arguments: str) -> int:
    """Run a command, check how it ends, and return the exit code."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    printed = err.getvalue()
    assert code in (0, 1, 2), printed
    assert "Traceback" not in printed
    assert "bug" not in printed, printed
    if code == 1:
        *before, last = printed.splitlines()
        assert last.startswith("error: "), printed
        assert not any(line.startswith("error: ") for line in before)
    return code


def command_lines() -> st.SearchStrategy[list[str]]:
    """Every command with some of its options and hostile values."""
    values = st.sampled_from([*NUMBERS, *TEXTS]) | st.text(max_size=8)
    options = {
        name: sorted(option for parameter in command.params for option in parameter.opts if option.startswith("-"))
        for name, command in aerogel.commands.items()
    }

    @st.composite
    def draw(pick: Any) -> list[str]:
        name = pick(st.sampled_from(sorted(options)))
        arguments = [NOWHERE] if name not in ("models", "study") else ["nowhere.toml"] if name == "study" else []
        for option in pick(st.lists(st.sampled_from(options[name]), max_size=4) if options[name] else st.just([])):
            arguments += [option, pick(values)]
        return [name, *arguments]

    return draw()


@settings(derandomize=True, max_examples=300)
@given(command_lines())
def test_options(arguments: list[str]) -> None:
    assert exit_code(*arguments) in ((0, 2) if arguments[0] == "models" else (1, 2))


FIELDS = {
    "": ("name", "models", "tasks", "methods", "sparsities", "pattern", "scope", "allocation", "seeds", "processes"),
    "training": ("epochs", "batch_size", "learning_rate", "max_length", "limit"),
    "recovery": ("epochs", "score"),
    "benchmark": ("batch_size", "rounds"),
}
TOML_VALUES = (
    *("0", "-1", "90", "[90]", "[0.5, nan]", "[inf]", '["50%"]', "1e400", "[-0.0]", "true", "1979-05-27", "2026-13-45"),
    *(
        "1" * 5000,
        f"[{'1' * 5000}]",
        f"0x{'f' * 3000}",
        f"[0x{'f' * 3000}]",
        "[" * 3000,
        "{a = " * 900,
        ".".join("a" * 900),
    ),
    *('""', '".."', '"a/b"', '["\\u0000"]', '"\\u0000"', f'"{"x" * 3000}"', "[[[1]]]", "{}", "[]", '[""]', "[1, 1]"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    with contextlib.chdir(folder):
        yield folder


@settings(derandomize=True, max_examples=150)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from([(part, field) for part, fields in FIELDS.items() for field in fields]),
            st.sampled_from(TOML_VALUES) | st.text(max_size=10),
        ),
        max_size=3,
    ),
    end=st.text(max_size=20) | st.just(""),
)
@example(changes=[], end="")
@example(changes=[(("", "sparsities"), "[0, 90]")], end="")
def test_toml(folder: Path, changes: list[tuple[tuple[str, str], str]], end: str) -> None:
    values: dict[tuple[str, str], str] = {("", "name"): '"s"', ("", "models"): f'["{NOWHERE}"]', **dict(changes)}
    lines = []
    for part in FIELDS:
        lines += [f"[{part}]"] if part else []
        lines += [f"{field} = {text}" for (of, field), text in values.items() if of == part]
    (folder / "study.toml").write_bytes("\n".join([*lines, end]).encode("utf-8", "replace"))
    assert exit_code("study", "study.toml", "--output", "out") == 1
    assert not (folder / "out").exists()


CELLS = ("", "0", "1", "9" * 5000, "-1", "1e400", "nan", "a", "é", '"', "\0", "\x0b", "९", "sentence", "label", " ")


@settings(derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.sampled_from(CELLS), max_size=3), max_size=12), st.binary(max_size=3))
@example([["word", label] for label in ("9" * 5000, "1") * 9], b"")
def test_tsv(folder: Path, rows: list[list[str]], end: bytes) -> None:
    text = "\n".join("\t".join(row) for row in [["sentence", "label"], *rows])
    (folder / "task.tsv").write_bytes(text.encode() + end)
    assert exit_code("evaluate", "tiny-bert", "--tasks", "task.tsv") == 1  # it has no classifier


@pytest.fixture(scope="module")
def store(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with few trials, of each kind."""
    folder = tmp_path_factory.mktemp("stores")
    shutil.copy(study_folder / "study.sqlite", folder)
    with closing(sqlite3.connect(folder / "study.sqlite")) as connection, connection:
        kept = "json_extract(trial, '$.model') = 'tiny-gpt2' and coalesce(json_extract(trial, '$.task'), '') in ('', ?)"
        connection.execute(f"update trials set place = -1 where not ({kept})", ["movie-reviews"])
    return folder


@st.composite
def changed(draw: Any, value: Any) -> Any:
    """A JSON value with one change, removal or addition."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 9)) == 0:
            return {key: kept for key, kept in value.items() if key != name}
        return {**value, name: draw(changed(value[name]))}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], *draw(st.just([draw(changed(value[index]))]) | st.just([])), *value[index + 1 :]]
    if isinstance(value, dict):
        return draw(st.sampled_from([{**value, "unknown": 1}, *HOSTILE]))
    return draw(st.sampled_from(HOSTILE))


@settings(derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data(), table=st.sampled_from(["spec", "trial", "result", "result"]))
def test_stores(store: Path, data: st.DataObject, table: str) -> None:
    with closing(sqlite3.connect(store / "study.sqlite", isolation_level=None)) as connection:
        if table == "spec":
            key, text = "", connection.execute("select spec from study").fetchone()[0]
        else:
            rows = connection.execute(f"select key, {table} from trials where place >= 0 order by place").fetchall()
            key, text = data.draw(st.sampled_from(rows))
        new = data.draw(changed(json.loads(text)) if data.draw(st.integers(0, 9)) else st.sampled_from(HOSTILE))
        written = (
            json.dumps(new) if data.draw(st.integers(0, 19)) else data.draw(st.binary(max_size=9) | st.text(max_size=9))
        )
        update = (
            "update study set spec = ?1 where ?2 = ''"
            if table == "spec"
            else f"update trials set {table} = ?1 where key = ?2"
        )
        connection.execute(update, [written, key])
        try:
            assert exit_code("report", str(store)) in (0, 1)
        finally:
            connection.execute(update, [text, key])


@settings(derandomize=True, max_examples=10)
@given(start=st.integers(0, 40_000), new=st.binary(min_size=1, max_size=64), cut=st.booleans())
def test_damaged_stores(
    store: Path, tmp_path_factory: pytest.TempPathFactory, start: int, new: bytes, cut: bool
) -> None:
    damaged = tmp_path_factory.mktemp("damaged")
    raw = (store / "study.sqlite").read_bytes()
    rest = b"" if cut else raw[start + len(new) :]
    (damaged / "study.sqlite").write_bytes(raw[:start] + new + rest)
    assert exit_code("report", str(damaged)) in (0, 1)
