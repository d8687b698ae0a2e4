"""What both benchmarks share: how a subject is made, where results and progress go, and on what machine it was."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from held import Facts, Held, HeldError, interleave
from rich.console import Console

from aerogel.benchmark import environment

HERE = Path(__file__).parent
DEEPSPARSE = Path(sys.prefix, "deepsparse", "bin", "python")  # its own: it needs a Python before 3.12 and an old numpy

results = Console()
if not results.is_terminal:
    results.width = 120  # a file has no width of its own
_progress = Console(stderr=True)

# `timeout` and job schedulers ask like this: leave as after Ctrl-C, with processes ended and folders removed
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def say(text: str) -> None:
    _progress.print(text, style="dim", highlight=False)


def prepared(spec: Facts) -> Facts:
    """Has a model made in a process that is gone, with its memory, before anything is measured."""
    process = Held([sys.executable, str(HERE / "subjects.py")], spec, spec["threads"])
    process.stop()
    return process.facts


def side_by_side(title: str, jobs: dict[str, tuple[list[str], Facts]], rounds: int, threads: int) -> dict[str, Facts]:
    """Runs the processes of `jobs`, commands with what they are asked, in alternating rounds: the facts of each.

    These are what it said of itself, its raw times, and the share of the machine that others took; or why it failed.
    """
    measured: dict[str, Facts] = {}
    with ExitStack() as stack:
        processes: dict[str, Held] = {}
        for name, (command, spec) in jobs.items():
            say(f"{title}: starting {name}")
            try:
                process = Held(command, spec, threads)
            except HeldError as error:
                measured[name] = {"failed": str(error)}
                continue
            stack.callback(process.stop)
            processes[name] = process
        say(f"{title}: {rounds} rounds of {len(processes)}")
        answers, failures = interleave(processes, rounds)
    for name, process in processes.items():
        if name in failures:
            measured[name] = {"failed": failures[name]}
            continue
        times = [answer["seconds"] for answer in answers[name]]
        others = sum(answer["others"] for answer in answers[name]) / (sum(times) * threads)
        measured[name] = process.facts | {"seconds": times, "others": others}
    return measured


def surroundings(threads: int) -> Facts:
    """The machine, the threads, and the versions of all that is compared."""
    torch.set_num_threads(threads)
    facts = environment()
    for name in ("onnx", "onnxruntime", "openvino"):
        try:
            facts["versions"][name] = version(name)
        except PackageNotFoundError:
            facts["versions"][name] = None
    packages = DEEPSPARSE.parents[1].glob("lib/python*/site-packages/deepsparse-*.dist-info")
    facts["versions"]["deepsparse"] = next((path.stem.partition("-")[2] for path in packages), None)
    return facts


def write(report: Facts, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1))
