"""Processes that hold still while another one is measured.

Every runtime has a thread pool, and its idle threads spin for a while before they sleep: that makes its own next call
quicker and its neighbours slower. Turning the spinning off would cost the runtimes that profit from it, and leaving it
on would cost whoever comes next. So nobody's settings are touched: a process whose turn is over is stopped (SIGSTOP)
until its next (SIGCONT). It needs nothing but the standard library, for it runs in other people's environments too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
# A run that takes longer than this has driven everything out of the caches by itself; a shorter one is timed after
# another that is not, or it would pay for what the processes before it left there.
WARM_UP_SECONDS = 0.3


class HeldError(Exception):
    """What a process said of its failure, in one line, or that it died."""


class Held:
    """A process that prepared itself, waits, and does one run at each request."""

    def __init__(self, command: list[str], spec: Facts, threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NM_DISABLE_ANALYTICS": "True"}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  open for as long as the process
        self._process = subprocess.Popen(
            [*command, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
        )
        try:
            self.facts = self._answer()
        except BaseException:
            self.stop()
            raise

    def run(self) -> Facts:
        """One turn; returns what `serve` measured."""
        assert self._process.stdin
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # killed while it held still, which its answer tells
            print("run", file=self._process.stdin, flush=True)
        return self._answer()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> Facts:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise HeldError(f"died with exit code {self._process.wait()}: {self._last_words()}")
        answer: Facts = json.loads(line)
        if "failed" in answer:
            raise HeldError(answer["failed"])
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"


def serve(prepare: Callable[[Facts], tuple[Callable[[], Any], Callable[[Any], Facts]]]) -> None:
    """The other side, in the process: prepares what the command line asks for, then times a run at each request.

    `prepare` returns the run, and what to say of its first result, such as its error. Peak memory is taken before
    that is looked at.
    """
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print belongs with the diagnostics
    try:
        started = time.perf_counter()
        run, examine = prepare(json.loads(sys.argv[-1]))
        first = run()
        ready = time.perf_counter() - started
        peak = peak_memory()
        print(json.dumps({"ready_seconds": ready, "peak_memory": peak, **examine(first)}), file=answers, flush=True)
        last = WARM_UP_SECONDS
        for _ in sys.stdin:
            if last < WARM_UP_SECONDS:
                run()
            machine, own, started = _busy_seconds(), time.process_time(), time.perf_counter()
            run()
            last = time.perf_counter() - started
            others = max(0.0, _busy_seconds() - machine - (time.process_time() - own))
            print(json.dumps({"seconds": last, "others": others}), file=answers, flush=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        print(json.dumps({"failed": f"{type(error).__name__}: {reason[0]}"}), file=answers, flush=True)


def interleave(processes: dict[str, Held], rounds: int) -> tuple[dict[str, list[Facts]], Facts]:
    """Asks all processes in turn, `rounds` times after one that is not kept; returns their answers, and who failed."""
    answers: dict[str, list[Facts]] = {name: [] for name in processes}
    failures: Facts = {}
    for number in range(rounds + 1):
        # there and back, so that nobody always comes after the same neighbour
        for name in sorted(processes, reverse=bool(number % 2)):
            if name in failures:
                continue
            try:
                answer = processes[name].run()
            except HeldError as error:
                failures[name] = str(error)
                continue
            if number:
                answers[name].append(answer)
    return {name: taken for name, taken in answers.items() if name not in failures}, failures


def peak_memory() -> int:
    """The most bytes of physical memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it forked
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _busy_seconds() -> float:
    """Processor seconds spent on this machine so far, by anyone."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, interrupts, soft, stolen = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _die_with_parent() -> None:
    """A stopped process would outlive a killed parent for ever."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
