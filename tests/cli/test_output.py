"""Progress lines if stderr is not a terminal."""

import re
import threading
from pathlib import Path

import pytest

from aerogel import progress
from aerogel.cli import output
from aerogel.cli.main import run
from builders import sentences, write_tsv

SMALL = ("--batch-size", "2", "--sequence-length", "8", "--rounds", "3", "--training-steps", "1")
CALIBRATION = ("--calibration", "TASK", "--samples", "2")
SPEC = """
name = "progress"
models = ["tiny-gpt2"]
tasks = ["TASK"]
sparsities = [0]
[training]
epochs = 1
limit = 32
max_length = 16
[benchmark]
batch_size = 2
sequence_length = 8
rounds = 3
training_steps = 1
"""


def test_a_step_estimates_the_time_left() -> None:
    step = output.Step()
    assert str(step).startswith("starting")
    step.update("training, loss 0.3", 0, 80)
    assert "0 of 80" in str(step)
    assert "left" not in str(step)
    step.since -= 60  # as if a minute had passed
    step.update("training, loss 0.2", 20, 80)
    assert re.search(r"loss 0.2: 20 of 80, .* so far, about 3 min left", str(step))
    step.update("scoring", 0, 7)
    assert "left" not in str(step)


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5400, "1 h 30 min"), (86400, "24 h 0 min")]
)
def test_durations(seconds: float, written: str) -> None:
    assert output.duration(seconds) == written


def test_lines_are_printed_between_updates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "EVERY", 0.01)
    wrote = threading.Event()
    monkeypatch.setattr(output, "note", lambda text, note=output.note: (note(text), wrote.set()))
    with output.progress_bar():
        progress.update("counting", 2, 9)
        wrote.clear()
        assert wrote.wait(60)
        assert "counting: 2 of 9" in capsys.readouterr().err.splitlines()[-1]
    capsys.readouterr()
    assert threading.active_count() == 1 or not any("write" in thread.name for thread in threading.enumerate())


def test_quick_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress_bar():
        progress.update("counting", 2, 9)
    assert capsys.readouterr().err == ""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_tsv(tmp_path / "moods.tsv", sentences(60))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("prune", "tiny-bert", "--sparsity", "0.5", "--swap", *CALIBRATION, "--output", "OUT"),
            r"\d of \d+",
        ),
        (("finetune", "tiny-bert", "--task", "TASK", "--output", "OUT", "--epochs", "2"), r"\d of \d+, .* left"),
        (("evaluate", "tiny-gpt2", "--tasks", "python-reference", "--limit", "40"), r"scoring .*: \d+ of \d+"),
        (("bench", "tiny-bert", *SMALL), r"preparing|loading|measuring"),
        (("study", "SPEC", "--output", "OUT"), r"\[\d/3\] tiny-gpt2 .*"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_command_reports_progress(
    arguments: tuple[str, ...],
    line: str,
    task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(output, "EVERY", 0.02)
    (tmp_path / "spec.toml").write_text(SPEC.replace("TASK", str(task)))
    paths = {"TASK": str(task), "OUT": str(tmp_path / "out"), "SPEC": str(tmp_path / "spec.toml")}
    assert run([paths.get(argument, argument) for argument in arguments]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(re.search(line, printed) and "so far" in printed for printed in lines), lines
