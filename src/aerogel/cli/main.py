"""`aerogel`: the group of commands, exit codes and error messages."""

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
from aerogel.cli.finetune import finetune
from aerogel.cli.inspect import inspect
from aerogel.cli.models import list_models
from aerogel.cli.output import note
from aerogel.cli.pack import pack
from aerogel.cli.prune import prune, unpack
from aerogel.cli.study import report, study
from aerogel.errors import AerogelError, AerogelWarning, first_line

TERMINATED = 128 + signal.SIGTERM


class _Group(click.Group):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="aerogel")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def aerogel(ctx: click.Context, debug: bool) -> None:
    """Prune and quantize transformers, and run them faster on CPUs.

    \b
    Prune a model, then measure what it lost and what it gained:
      aerogel prune tiny-gpt2 --sparsity 0.5 --method best \\
          --calibration python-reference --output sparse
      aerogel evaluate sparse --task python-reference --reference tiny-gpt2
      aerogel bench tiny-gpt2 sparse

    MODEL is a zoo name (see `aerogel models`), a local folder, or a Hugging Face hub id. --help of a command shows
    examples.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (list_models, inspect, prune, pack, unpack, finetune, evaluate, bench, study, report):
    aerogel.add_command(command)


def main() -> None:
    """The console entry point. Exit codes: 0 done, 1 error, 2 usage, 130 interrupted."""
    _open_streams()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # exit normally, so that partial outputs are removed
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
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
    except (KeyboardInterrupt, click.Abort) as error:
        reason = error.__cause__ or error  # click raises its own error from the interrupt
        note(": ".join(["interrupted", *map(str, reason.args)]))
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        note(f"error: {_sentence(error)}")
        return 1


def _sentence(error: Exception) -> str:
    """The error message, in one line."""
    if isinstance(error, AerogelError | OSError):
        text = " ".join(str(error).split("\n"))
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)  # of a file's name
    if isinstance(error, UnicodeEncodeError):  # only a caller in Python can pass such a string
        return f"{ascii(error.object)[:80]} can't be part of a file name ({error.reason})"
    name, text = type(error).__name__, first_line(error)
    text = text if text.startswith(name) else f"{name}: {text}"
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return f"out of memory ({text}): try a smaller batch, or run aerogel --debug for the traceback"
    return f"this is a bug in aerogel ({text}): run aerogel --debug for the traceback"


def _open_streams() -> None:
    """Make writing to the standard streams safe, even if the caller has closed them."""
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:  # closed: the next file opened would get its number, and the output of libraries
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may not be UTF-8
    sys.stderr = _Diagnostics(sys.stderr)


class _Diagnostics:
    """Standard error that drops what it can't write: a full disk under a log does not stop the command."""

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
    """Hide the warnings of libraries, and show those of aerogel in one line."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", AerogelWarning)
    warnings.showwarning = lambda message, *others, **named: note(f"warning: {message}")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    for name in ("huggingface_hub", "datasets", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
