"""Processes that are paused while another one is measured.

Idle threads of a runtime's thread pool spin for a while before they sleep, which speeds up the runtime's own next call
and slows down other processes. So each process is stopped (SIGSTOP) after its round and continued (SIGCONT) for the
next one; the settings of the runtimes stay as they are. This module uses only the standard library, because it also
runs in DeepSparse's environment.
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
# A longer run fills the caches by itself. A shorter one is timed after an untimed one, since other processes have used
# the caches in between.
WARM_UP_SECONDS = 0.3


class ProcessError(Exception):
    """The error of a process in one line, or that it died."""


class PausedProcess:
    """A process that runs `serve`: it prepares, then does one run per request, and is paused in between."""

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
            self.facts = self._receive()
        except BaseException:
            self.stop()
            raise

    def run(self) -> Facts:
        """Do one run. Returns the measurements of `serve`."""
        assert self._process.stdin
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # killed while it was paused; _receive reports it
            print("run", file=self._process.stdin, flush=True)
        return self._receive()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _receive(self) -> Facts:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ProcessError(f"died with exit code {self._process.wait()}: {self._last_line()}")
        reply: Facts = json.loads(line)
        if "failed" in reply:
            raise ProcessError(reply["failed"])
        self._process.send_signal(signal.SIGSTOP)
        return reply

    def _last_line(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


def serve(prepare: Callable[[Facts], tuple[Callable[[], Any], Callable[[Any], Facts]]]) -> None:
    """Run in the measured process: prepare the specification in the last argument, then time one run per request.

    `prepare` returns the function to time, and one that computes facts about its first result, such as the error. Peak
    memory is measured before the latter runs.
    """
    _die_with_parent()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries goes to stderr
    try:
        started = time.perf_counter()
        run, examine = prepare(json.loads(sys.argv[-1]))
        first = run()
        ready = time.perf_counter() - started
        peak = peak_memory()
        print(json.dumps({"ready_seconds": ready, "peak_memory": peak, **examine(first)}), file=replies, flush=True)
        last = WARM_UP_SECONDS
        for _ in sys.stdin:
            if last < WARM_UP_SECONDS:
                run()
            machine, own, started = _busy_seconds(), time.process_time(), time.perf_counter()
            run()
            last = time.perf_counter() - started
            others = max(0.0, _busy_seconds() - machine - (time.process_time() - own))
            print(json.dumps({"seconds": last, "others": others}), file=replies, flush=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        print(json.dumps({"failed": f"{type(error).__name__}: {reason[0]}"}), file=replies, flush=True)


def interleave(processes: dict[str, PausedProcess], rounds: int) -> tuple[dict[str, list[Facts]], Facts]:
    """Run all processes in turn, `rounds` times after a warm-up. Returns their replies, and the failures by name."""
    replies: dict[str, list[Facts]] = {name: [] for name in processes}
    failures: Facts = {}
    for number in range(rounds + 1):
        # the order alternates, so that no process always follows the same other one
        for name in sorted(processes, reverse=bool(number % 2)):
            if name in failures:
                continue
            try:
                reply = processes[name].run()
            except ProcessError as error:
                failures[name] = str(error)
                continue
            if number:
                replies[name].append(reply)
    return {name: kept for name, kept in replies.items() if name not in failures}, failures


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage includes the parent's memory at the fork
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, interrupts, soft, stolen = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _die_with_parent() -> None:
    """Otherwise a paused process would outlive its killed parent."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
