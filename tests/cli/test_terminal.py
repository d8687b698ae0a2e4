"""What a person sees: the first minute, examples, what to run next, and 80 columns."""

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from aerogel.cli import output
from aerogel.cli.main import aerogel, run
from builders import sentences, write_tsv

# so that the examples of training, scoring and studies run quickly
QUICK = {
    "finetune": "--limit 64 --epochs 1 --batch-size 4 --max-length 16",
    "evaluate": "--limit 8",
    "bench": "--batch-size 2 --sequence-length 8 --rounds 3 --training-steps 1",
}
BEFORE = {"pack": "prune tiny-bert --sparsity 0.9 --no-pack --output pruned"}
STUDY = """
name = "mine"
models = ["tiny-gpt2"]
tasks = ["python-reference"]
sparsities = [0.5]
training = {epochs = 1, limit = 8, text_limit = 8}
evaluation = {text_limit = 4}
benchmark = {batch_size = 2, sequence_length = 8, rounds = 3, training_steps = 1}
"""
LONG = (["study", "starter"], ["report", "runs/starter"])  # minutes: `make study` runs the first
ORDER = ("models", "inspect", "prune", "finetune", "evaluate", "bench", "pack", "unpack", "study", "report")


def commands_in(text: str) -> list[list[str]]:
    """The words of each command of aerogel in a help text, without the name of the program."""
    joined = re.sub(r" \\\n\s+", " ", text)
    return [shlex.split(line)[1:] for line in joined.splitlines() if line.strip().startswith("aerogel ")]


def examples(name: str) -> list[list[str]]:
    return commands_in(aerogel.commands[name].epilog or "")


def test_without_a_command_it_says_what_to_do_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    shown = capsys.readouterr().out
    first = commands_in(shown)
    assert [words[0] for words in first] == ["prune", "evaluate", "bench"]
    for words in first:
        assert words in examples(words[0])  # which are run below
    assert all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in aerogel.commands)


@pytest.mark.parametrize("name", sorted(aerogel.commands))
def test_help_has_two_examples_and_fits_80_columns(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(examples(name)) == 2
    assert commands_in(shown) == examples(name)
    assert all(words[0] == name for words in examples(name))
    assert max(map(len, shown.splitlines())) <= 80


def check_next(printed: str) -> None:
    """The last line on stderr proposes a command that aerogel takes, or how to load a packed model."""
    last = printed.splitlines()[-1]
    if "from_pretrained" in last:
        exec(last.removeprefix("next: load it in Python: "))
        return
    word, program, command, *arguments = shlex.split(last)
    assert (word, program) == ("next:", "aerogel")
    aerogel.commands[command].make_context(command, arguments)


@pytest.mark.slow
def test_the_examples_run_and_say_what_to_run_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(STUDY)
    assert set(ORDER) == set(aerogel.commands)
    for name in ORDER:
        if name in BEFORE:
            assert run(BEFORE[name].split()) == 0
        for words in [words for words in examples(name) if words not in LONG]:
            assert run([*words, *QUICK.get(name, "").split()]) == 0, words
            printed = capsys.readouterr()
            if name in ("study", "report"):
                assert printed.out.strip().endswith("report.html")
            elif "--json" not in words:
                check_next(printed.err)


def test_tables_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "WIDE", 80)
    columns = ["model", *(f"column {index}" for index in range(12))]
    rows = [["tiny-bert, compressed", *(f"{row}.{index:04d} MB" for index in range(12))] for row in range(3)]
    output.print_table("Wide", columns, rows)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("tiny-bert, compressed") == 3 * shown.count("model")
    for cell in (*columns[1:], *(cell for row in rows for cell in row[1:])):
        assert shown.count(cell) >= 1
    output.print_table("Text", ["name", "value"], [["word " * 40, "1,234,567"]])
    shown = capsys.readouterr().out
    assert "1,234,567" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 120])
def test_progress_bars_show_count_and_time_left_before_words(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(output, "stderr", lambda: console)
    with output.bars() as bar:
        task = bar.add_task(
            "tiny-bert 90% magnitude, movie-reviews, seed 0: training, loss 0.3 " + "and more" * 9, total=4321
        )
        bar.update(task, completed=1234)
        bar.refresh()
        shown = screen.getvalue().splitlines()[-1]
    assert "1234/4321" in shown
    assert shown.rstrip().endswith("left")
    assert "tiny-bert" in shown
    assert "loss 0.3" in shown


@pytest.mark.parametrize("name", ["evaluate", "finetune", "study"])
def test_task_and_tasks_are_both_taken_and_one_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"evaluate": ["tiny-bert"], "finetune": ["tiny-bert", "--output", "out"], "study": []}
    for option in ("--task", "--tasks"):
        assert run([name, *own[name], option, "sst-2"]) == 1
        assert capsys.readouterr().err.count("sst2") == 1  # in "did you mean sst2?"
    assert run([name, "--help"]) == 0
    assert set(re.findall(r"^  (--tasks?) ", capsys.readouterr().out, re.MULTILINE)) == {"--task"}


def test_pack_packs_the_zeros_that_a_model_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, packed, again = (str(tmp_path / name) for name in ("dense", "packed", "again"))
    pruning = ["prune", "tiny-bert", "--sparsity", "0.9", "--output"]
    assert run([*pruning, dense, "--no-pack"]) == 0
    assert run([*pruning, packed]) == 0
    assert run(["pack", dense, "--output", again]) == 0
    assert "90.00%" in capsys.readouterr().err
    weights = [(Path(folder) / "model.safetensors").read_bytes() for folder in (packed, again)]
    assert weights[0] == weights[1]
    for source, named in (("tiny-bert", "40%"), (packed, "unpack")):
        assert run(["pack", source, "--output", str(tmp_path / "out")]) == 1
        assert named in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_accuracy_that_chance_reaches_is_said_to_be_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(text, int(index % 4 == 0)) for index, (text, _) in enumerate(sentences(80))]
    task, tuned = str(write_tsv(tmp_path / "moods.tsv", rows)), str(tmp_path / "tuned")
    training = ["--epochs", "0.1", "--learning-rate", "1e-9", "--max-length", "16", "--output", tuned]
    assert run(["finetune", "tiny-bert", "--task", task, *training]) == 0
    said = re.compile(r"accuracy [01]\.\d+ is not above [01]\.\d+")
    assert said.search(capsys.readouterr().err)
    assert run(["evaluate", tuned, "--tasks", task, "--reference", tuned]) == 0
    shown = capsys.readouterr().out
    assert said.search(shown)
    assert "80 examples" in shown
