"""Requests per second and latency of examples/serve.py by model and by numbers of processes and threads.

All servers are started first; then each gets requests from 8 clients at once for some seconds, in turn, in several
rounds. The clients run on the same machine. Columns: the `model`, `processes` of the server, `requests` that a process
computes at a time, `threads` that compute each; for each number of sentences in a request, the median over rounds of
the requests per second, and of the median and 95th percentile of the latency.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click
from harness import print_table, say

EXAMPLES = Path(__file__).parents[1] / "examples"
CLIENTS, SENTENCE = 8, "word " * 62  # 64 tokens
SETTINGS = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2), (1, 4, 1), (2, 1, 1), (2, 1, 2), (2, 2, 1)]
COLUMNS = ("model", "processes", "requests", "threads")


@dataclass(frozen=True)
class Round:
    """Of one server: requests per second, and latencies in milliseconds."""

    rate: float
    median: float
    high: float


@click.command(help=__doc__.partition("\n")[0])
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--sentences", multiple=True, type=click.IntRange(1), default=[1, 16], show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=2.0, show_default=True)
def main(*, models: Sequence[Path], sentences: Sequence[int], rounds: int, seconds: float) -> None:
    results: dict[tuple[Path, tuple[int, int, int], int], list[Round]] = {}
    served = list(product(models, SETTINGS))
    with ExitStack() as stack:
        ports = {(model, setting): stack.enter_context(server(model, *setting)) for model, setting in served}
        for index in range(rounds):
            say(f"round {index + 1} of {rounds}")
            for (model, setting), port in ports.items():
                for count in sentences:
                    results.setdefault((model, setting, count), []).append(measured(port, count, seconds))
    columns = [*COLUMNS, *(f"{name}, {count}" for count in sentences for name in ("per second", "ms", "95%"))]
    rows = []
    for model, setting in served:
        row = [model.name, *map(str, setting)]
        for count in sentences:
            taken = results[model, setting, count]
            row += [
                f"{statistics.median(getattr(one, name) for one in taken):.4g}" for name in ("rate", "median", "high")
            ]
        rows.append(row)
    print_table("Requests", columns, rows, {})


@contextmanager
def server(model: Path, processes: int, requests: int, threads: int) -> Iterator[int]:
    """The port of a server that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "serve:app", "--log-level", "error", "--no-access-log"]
    command += ["--port", str(port), "--workers", str(processes)]
    settings = {"MODEL": str(model.resolve()), "CONCURRENT": str(requests), "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, cwd=EXAMPLES, env=os.environ | settings)
    try:
        while True:
            try:
                measured(port, 1, 0.5)
                break
            except OSError:
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def measured(port: int, sentences: int, seconds: float) -> Round:
    """What `CLIENTS` clients find that send one request after another."""
    body, end = json.dumps({"texts": [SENTENCE] * sentences}), time.perf_counter() + seconds

    def client(_: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        latencies = []
        while (start := time.perf_counter()) < end:
            connection.request("POST", "/embed", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
            latencies.append(1000 * (time.perf_counter() - start))
        return latencies

    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        latencies = [latency for each in clients.map(client, range(CLIENTS)) for latency in each]
    taken = time.perf_counter() - start
    latencies.sort()
    return Round(len(latencies) / taken, statistics.median(latencies), latencies[int(0.95 * len(latencies))])


if __name__ == "__main__":
    main()
