"""Exit codes, unexpected errors, and standard streams that are closed or full."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from aerogel.cli.main import aerogel, run
from aerogel.cli.output import resumable
from aerogel.errors import AerogelError, ModelError

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")


def failing(error: BaseException) -> click.Command:
    def fail() -> None:
        raise error

    return click.Command("fail", callback=fail)


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (ModelError("no such\nmodel"), "no such model"),
        (AerogelError("a sentence"), "a sentence"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate\n2 GiB"), "memory"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError"),
        (KeyError("field"), "KeyError 'field'"),
        (ValueError(), "ValueError"),
        (TypeError("first line\nsecond line"), "TypeError: first line"),
    ],
)
def test_any_error_is_one_sentence_without_debug(
    error: Exception, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(aerogel.commands, "fail", failing(error))
    assert run(["fail"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert ("--debug" in err) == (not isinstance(error, AerogelError | OSError))
    assert run(["--debug", "fail"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(aerogel.commands, "fail", failing(KeyboardInterrupt()))
    assert run(["fail"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"
    with pytest.raises(KeyboardInterrupt) as raised, resumable("after step 7"):
        raise KeyboardInterrupt
    monkeypatch.setitem(aerogel.commands, "fail", failing(raised.value))
    assert run(["fail"]) == 130
    assert "resume after step 7" in capsys.readouterr().err


def shell(command: str) -> subprocess.CompletedProcess:
    script = f"{sys.executable} -c 'from aerogel.cli import main; main()' {command}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize("stderr", ["2>&-", pytest.param("2>/dev/full", marks=FULL)])
@pytest.mark.parametrize(("command", "code"), [("models", 0), ("inspect ./nowhere", 1), ("bench", 2), ("--version", 0)])
def test_a_closed_or_full_stderr_changes_nothing(command: str, code: int, stderr: str) -> None:
    done = shell(f"{command} {stderr}")
    assert done.returncode == code
    assert (done.stdout != "") == (code == 0)


@FULL
@pytest.mark.parametrize("stderr", ["", "2>&-", "2>/dev/full"])
def test_a_full_stdout_is_an_error(stderr: str) -> None:
    done = shell(f"models >/dev/full {stderr}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") == (not stderr)


def test_files_opened_later_do_not_get_the_number_of_a_stream(tmp_path: Path) -> None:
    script = (
        "import sys; from aerogel.cli.main import main; sys.argv = ['aerogel', '--version']\n"
        "try: main()\n"
        f"finally: print(open({str(tmp_path / 'file')!r}, 'w').fileno(), file=open({str(tmp_path / 'number')!r}, 'w'))"
    )
    subprocess.run(["bash", "-c", f'{sys.executable} -c "$0" <&- >&- 2>&-', script], check=True)
    assert int((tmp_path / "number").read_text()) > 2


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text on other systems")
def test_a_folder_name_that_is_not_utf8_is_printed() -> None:
    script = "from aerogel.cli.main import _open_streams; _open_streams(); print('a\\udcffb')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 0
    assert done.stdout.startswith(b"a")


LIGHT = [
    ["models"],
    ["models", "--json"],
    ["--help"],
    ["--version"],
    *([command, "--help"] for command in sorted(aerogel.commands)),
    ["nonsense"],
    ["bench", "tiny-bert", "--threads", "0"],
    ["prune", "smollm2", "--sparsity", "90", "--output", "out"],
    ["prune", "smollm2", "--sparsity", "0.5", "--method", "wnada", "--output", "out"],
    ["prune", "smollm2", "--sparsity", "0.5", "--calibration", "no.txt", "--output", "out"],
    ["finetune", "minilm", "--task", "sst3", "--output", "out"],
    ["finetune", "minilm", "--task", "sst2", "--data", "nowhere", "--output", "out"],
    ["evaluate", "minilm", "--tasks", "sst2,nosuch"],
    ["inspect", "./nowhere"],
    ["study", "startr"],
    ["study", "nowhere.toml"],
    ["study", "--sparsity", "50%"],
    ["report", "nowhere"],
]


def test_commands_without_a_model_import_no_torch(tmp_path: Path) -> None:
    script = (
        f"import sys; from aerogel.cli.main import run; [run(arguments) for arguments in {LIGHT!r}]\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    assert all(hint in done.stderr for hint in ("0.9?", "0.5?", "wanda?", "sst2?"))
    assert not list(tmp_path.iterdir())


def test_warnings_of_aerogel_are_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", "tiny-bert", "--sparsity", "0.5", "--exclude", "*.layer.0.*", "--output", str(tmp_path / "out")]
    assert run(command) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 1
    assert "bert.encoder.layer.0.attention.self.query" in warnings[0]
