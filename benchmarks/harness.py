"""Shared by the benchmarks: preparing models, running processes in turn, printing, and the environment."""

from __future__ import annotations

import json
import signal
import statistics
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from paused import Facts, PausedProcess, ProcessError, interleave
from quantization import QUANTIZERS
from rich.console import Console
from rich.table import Table
from runtimes import RUNTIMES
from subjects import file_bytes

from aerogel.benchmark import environment

HERE = Path(__file__).parent
DEEPSPARSE = Path(sys.prefix, "deepsparse", "bin", "python")  # needs Python 3.11 and an old numpy
LLAMA_CPP = Path(sys.prefix, "llama-cpp", "bin", "python")  # is built for this processor

results = Console()
if not results.is_terminal:
    results.width = 140  # in a file or pipe
_progress = Console(stderr=True)

# sent by `timeout` and job schedulers: exit as after Ctrl-C, ending processes and removing folders
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def say(text: str) -> None:
    _progress.print(text, style="dim", highlight=False)


def prepared(spec: Facts, script: str = "subjects.py", python: Path = Path(sys.executable)) -> Facts:
    """Prepare a model in its own process, which ends before anything is measured."""
    process = PausedProcess([str(python), str(HERE / script)], spec, spec["threads"])
    process.stop()
    return process.facts


def files_of(runtimes: Iterable[str]) -> list[str]:
    """What `subjects.py` must write for these runtimes."""
    files = {RUNTIMES[name].file for name in runtimes}
    return sorted("onnx" if "{batch}" in file else file for file in files)


def measured(title: str, jobs: dict[str, tuple[str, Path]], batch: int, rounds: int, threads: int) -> dict[str, Facts]:
    """Measure `jobs` (runtime and folder of its model, by the name of the row) in interleaved rounds.

    Returns the facts of each: times, what its process reported and the size of its file; or why it failed.
    """
    failed: dict[str, Facts] = {}
    commands = {}
    for name, (runtime, folder) in jobs.items():
        python = DEEPSPARSE if runtime.startswith("deepsparse") else Path(sys.executable)
        spec = {"runtime": runtime, "folder": str(folder), "batch": batch, "threads": threads}
        if not python.exists():
            failed[name] = {"failed": "no environment: `make bench` creates one if Python 3.11 is installed"}
            continue
        try:
            if runtime in QUANTIZERS:
                say(f"{title}: quantizing for {name}")
                prepared(spec, "quantization.py")
        except ProcessError as error:
            failed[name] = {"failed": f"quantization: {error}"}
            continue
        commands[name] = [str(python), str(HERE / "runtimes.py")], spec
    completed = side_by_side(title, commands, rounds, threads)
    for name, facts in completed.items():
        if "failed" not in facts:
            runtime, folder = jobs[name]
            facts["median"] = statistics.median(facts["seconds"])
            facts["file_bytes"] = file_bytes(RUNTIMES[runtime].path(folder, batch))
    return failed | completed


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], failed: dict[str, Facts]) -> None:
    """Print a table whose first column is text, with the failures beneath."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    table.caption = "\n".join(f"{name}: {facts['failed']}" for name, facts in failed.items() if "failed" in facts)
    results.print(table)


def side_by_side(title: str, jobs: dict[str, tuple[list[str], Facts]], rounds: int, threads: int) -> dict[str, Facts]:
    """Run the processes of `jobs` (command and specification by name) in interleaved rounds.

    Returns the facts of each: those that it reported, its times, and the share of the machine that other processes
    used; or why it failed.
    """
    measured: dict[str, Facts] = {}
    with ExitStack() as stack:
        processes: dict[str, PausedProcess] = {}
        for name, (command, spec) in jobs.items():
            say(f"{title}: starting {name}")
            try:
                process = PausedProcess(command, spec, threads)
            except ProcessError as error:
                measured[name] = {"failed": str(error)}
                continue
            stack.callback(process.stop)
            processes[name] = process
        say(f"{title}: {rounds} rounds of {len(processes)}")
        replies, failures = interleave(processes, rounds)
    for name, process in processes.items():
        if name in failures:
            measured[name] = {"failed": failures[name]}
            continue
        times = [reply["seconds"] for reply in replies[name]]
        others = sum(reply["others"] for reply in replies[name]) / (sum(times) * threads)
        measured[name] = process.facts | {"seconds": times, "others": others}
    return measured


def surroundings(threads: int) -> Facts:
    """The machine, the number of threads, and the versions of all runtimes."""
    torch.set_num_threads(threads)
    facts = environment()
    for name in ("onnx", "onnxruntime", "openvino", "nncf"):
        try:
            facts["versions"][name] = version(name)
        except PackageNotFoundError:
            facts["versions"][name] = None
    for name, python in (("deepsparse", DEEPSPARSE), ("llama_cpp_python", LLAMA_CPP)):
        packages = python.parents[1].glob(f"lib/python*/site-packages/{name}-*.dist-info")
        facts["versions"][name] = next((path.stem.partition("-")[2] for path in packages), None)
    return facts


def write(report: Facts, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1))
