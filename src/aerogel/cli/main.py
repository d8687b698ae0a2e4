"""`aerogel`: the commands together, and what becomes of errors."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import traceback
import warnings
from typing import Any

import click

from aerogel.cli.bench import bench
from aerogel.cli.evaluate import evaluate
from aerogel.cli.inspect import inspect
from aerogel.cli.models import list_models
from aerogel.cli.output import note
from aerogel.cli.study import report, study
from aerogel.cli.weights import finetune, prune, unpack
from aerogel.errors import AerogelError, AerogelWarning, first_line

TERMINATED = 128 + signal.SIGTERM


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aerogel")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def aerogel(debug: bool) -> None:
    """Make transformers sparse, and make it count.

    MODEL is a zoo name (see `aerogel models`), a local folder, or a Hugging Face hub id.
    """


for command in (list_models, inspect, prune, unpack, finetune, evaluate, bench, study, report):
    aerogel.add_command(command)


def main() -> None:
    """The console entry point. Exits with 0 done, 1 an error in one sentence, 2 usage, 130 interrupted."""
    _open_streams()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # what is half-written is removed on the way out
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit code."""
    debug = "--debug" in arguments
    if not debug:
        _quiet()
    try:
        return aerogel.main(arguments, prog_name="aerogel", standalone_mode=False) or 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        note("interrupted")
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        note(f"error: {_sentence(error)}")
        return 1


def _sentence(error: Exception) -> str:
    """What became of the command, in one line."""
    if isinstance(error, AerogelError | OSError):
        return " ".join(str(error).split("\n"))
    if isinstance(error, UnicodeEncodeError):  # which only a caller in Python can pass
        return f"{ascii(error.object)[:80]} is not text that a file name can have ({error.reason})"
    name, said = type(error).__name__, first_line(error)
    said = said if said.startswith(name) else f"{name}: {said}"
    if isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said:
        return f"memory is too small for it ({said}): try a smaller batch, or run with aerogel --debug"
    return f"this is a bug in aerogel ({said}): run with aerogel --debug to see its traceback"


def _open_streams() -> None:
    """Makes writing to the standard streams safe, whatever the caller has made of them."""
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:  # closed: the next file opened would get its number, and what libraries print
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    sys.stderr = _Diagnostics(sys.stderr)


class _Diagnostics:
    """Standard error that drops what can't be written: a full disk under a log does not end the work."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _quiet() -> None:
    """Keeps the warnings of libraries off the terminal, and shows aerogel's own as one line."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", AerogelWarning)
    warnings.showwarning = lambda message, *others, **named: note(f"warning: {message}")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it sets its level when it is imported
    for name in ("huggingface_hub", "datasets", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
