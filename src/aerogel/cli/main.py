"""`aerogel`: the commands together, and what becomes of errors."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings

import click

from aerogel.cli.models import inspect, list_models
from aerogel.cli.output import note
from aerogel.cli.score import bench, evaluate
from aerogel.cli.study import report, study
from aerogel.cli.weights import finetune, prune, unpack
from aerogel.errors import AerogelError


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
    """The console entry point. Exits with 0 done, 1 a known error, 2 usage, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit code."""
    debug = "--debug" in arguments
    if not debug:
        _quiet()
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
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
    except (AerogelError, OSError) as error:
        if debug:
            traceback.print_exc()
        note(f"error: {error}")
        return 1


def _quiet() -> None:
    """Keeps the warnings of libraries off the terminal: what matters here is said by aerogel."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it sets its level when it is imported
    for name in ("huggingface_hub", "datasets", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
