"""Kills a study at random moments and resumes it: `python tests/killing.py 30 FOLDER` does it thirty times."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from aerogel.study import Store
from aerogel.study.results import Done, Failed
from builders import alive_in_session

SPEC = """
name = "killed"
models = ["tiny-gpt2"]
tasks = ["movie-reviews"]
sparsities = [0, 0.9]
seeds = [0, 1]
sensitivity = "movie-reviews"
recoveries = ["none", "finetune", "gradual"]
processes = 2
[training]
epochs = 1
batch_size = 4
limit = 40
max_length = 24
[recovery]
epochs = 1
score = "magnitude"
[evaluation]
limit = 16
[benchmark]
batch_size = 2
sequence_length = 8
rounds = 1
training_steps = 1
"""
TRIALS = 16  # two analyses, two seeds of three recoveries at two sparsities, two benchmarks
LATEST = 8.0  # seconds until the kill, after the study's start, its first trial's, or the end of one or two trials


@dataclass
class Tally:
    """Counts of kills, of those after the first result, and of studies.

    `wrong` has the problems, and `left` the bytes of the temporary folders that remain at the end.
    """

    kills: int = 0
    after_a_result: int = 0
    studies: int = 0
    wrong: list[str] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)

    def require(self, fits: bool, what: str) -> None:
        if not fits:
            self.wrong.append(f"kill {self.kills}: {what}")


def kill_at_random(folder: Path, kills: int, seed: int = 0) -> Tally:
    """Runs whole studies in `folder` with this many kills in all, and reports what was lost, run again or left over."""
    tally, draw = Tally(), random.Random(seed)
    scratch, home = folder / "tmp", folder / "home"
    scratch.mkdir(parents=True)
    spec = folder / "spec.toml"
    spec.write_text(SPEC)
    environment = {**os.environ, "TMPDIR": str(scratch), "AEROGEL_HOME": str(home)}
    while tally.kills < kills:
        tally.studies += 1
        output = folder / f"study-{tally.studies}"
        script = "from aerogel.cli import main; main()"
        command = [sys.executable, "-c", script, "study", str(spec), "--output", str(output)]
        kept: dict[str, Done] = {}
        while tally.kills < kills:
            process = subprocess.Popen(
                command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            _wait(output, process, draw.choice([None, 0, 1, 1, 1, 2]))
            time.sleep(draw.uniform(0, LATEST))
            if process.poll() is None:
                process.kill()
                tally.kills += 1
                tally.after_a_result += bool(_finished(output))
            stderr = process.communicate()[1].decode("utf-8", "replace")
            ended = process.returncode != -signal.SIGKILL
            tally.require(not ended or process.returncode == 0, f"it ended with {process.returncode}: {stderr}")
            tally.require(not alive_in_session(process.pid), "a process is left")
            kept = _check(tally, output, kept)
            if ended:
                break
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        tally.require(done.returncode == 0, f"the last run ended with {done.returncode}: {done.stderr}")
        kept = _check(tally, output, kept)
        tally.require(len(kept) == TRIALS, f"{len(kept)} of {TRIALS} trials are done")
    folders = (scratch, home / "tuned", *folder.glob("study-*"))
    tally.left = {
        str(path.relative_to(folder)): sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        for parent in filter(Path.is_dir, folders)
        for path in parent.iterdir()
        if parent == scratch or path.name.startswith(".") or path.name == "scratch"
    }
    return tally


def _wait(output: Path, process: subprocess.Popen, more: int | None) -> None:
    """Waits until the process has locked the study and finished `more` trials; `None` does not wait."""
    lock, before = output / "study.lock", None
    while more is not None and process.poll() is None:
        # the process that locks the file writes its number into it
        if lock.exists() and f"process {process.pid}," in lock.read_text():
            finished = _finished(output)
            before = finished if before is None else before
            if finished >= before + more:
                return
        time.sleep(0.02)


def _finished(output: Path) -> int:
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(output / "study.sqlite")) as connection:
        return int(connection.execute("select count(*) from trials where status = 'done'").fetchone()[0])
    return 0


def _check(tally: Tally, output: Path, before: dict[str, Done]) -> dict[str, Done]:
    """The good outcomes in the store, which have to be those from `before` and perhaps more."""
    path = output / "study.sqlite"
    if not path.exists() or not path.stat().st_size:
        tally.require(not before, "the store is gone")
        return before
    with closing(sqlite3.connect(path)) as connection:
        verdict = connection.execute("pragma integrity_check").fetchone()[0]
        tally.require(verdict == "ok", f"the store is damaged: {verdict}")
        if not connection.execute("select name from sqlite_master where name = 'trials'").fetchone():
            return before
    outcomes = Store.open(output).outcomes()
    done = {trial.key: outcome for trial, outcome in outcomes if isinstance(outcome, Done)}
    failed = [f"{trial.label}: {outcome.error}" for trial, outcome in outcomes if isinstance(outcome, Failed)]
    tally.require(not failed, f"failed: {failed}")
    for key, outcome in before.items():
        tally.require(done.get(key) == outcome, f"trial {key} is lost or was run again")
    return done


if __name__ == "__main__":
    tally = kill_at_random(Path(sys.argv[2]), int(sys.argv[1]))
    print(f"{tally}, {sum(tally.left.values())} bytes left")  # noqa: T201
    sys.exit(bool(tally.wrong))
