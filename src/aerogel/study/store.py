"""The trials of a study and their outcomes in one SQLite file, which is all that the report reads."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aerogel import files, progress
from aerogel.errors import AerogelError, StudyError, excerpt, first_line, writing
from aerogel.study.results import Failed, Outcome
from aerogel.study.source import STORE, store_path
from aerogel.study.spec import StudySpec, parse_spec
from aerogel.study.trial import Benchmark, Scoring, SensitivityAnalysis, Trial, trial_from_json

FORMAT = 2
TABLES = (
    "create table if not exists study (id integer primary key check (id = 1), spec text not null)",
    "create table if not exists trials (key text primary key, place integer not null, trial text not null, "
    "status text not null default 'open', result text)",
)
PATIENCE = 60.0  # seconds to wait for another process that holds the store locked


class Store:
    """The trials of a study and their outcomes. One process writes, one outcome in each transaction.

    Everything that is read is checked. Raises `StudyError`, naming the trial, for unexpected content, and if another
    process keeps the file locked for longer than a minute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, folder: Path, spec: StudySpec, trials: Sequence[Trial]) -> Store:
        """Opens or creates the store of a folder, and lists these trials in it. Existing outcomes are kept.

        Raises `StudyError` if the folder contains a study of another name, or a file that is not a store.
        """
        cls.check(folder, spec)
        store = cls(folder / STORE)
        with writing(store.path):
            folder.mkdir(parents=True, exist_ok=True)
            with store._transaction("begin immediate") as connection:
                for table in TABLES:
                    connection.execute(table)
                connection.execute(f"pragma user_version = {FORMAT}")
                connection.execute("insert or replace into study values (1, ?)", [spec.model_dump_json()])
                connection.execute("update trials set place = -1")  # of another specification, unless listed now
                connection.executemany(
                    "insert into trials (key, place, trial) values (?, ?, ?) "
                    "on conflict (key) do update set place = excluded.place",
                    [(trial.key, place, json.dumps(asdict(trial))) for place, trial in enumerate(trials)],
                )
        return store

    @classmethod
    def check(cls, folder: Path, spec: StudySpec) -> None:
        """Raises `StudyError` if the folder contains another study, or a file that is not a store."""
        path = files.resolved(folder) / STORE
        if path.exists() and path.stat().st_size:  # the creation of an empty one was interrupted
            name = cls.open(folder).spec().name
            if name != spec.name:
                raise StudyError(f"{folder} contains the study {name!r}: choose another --output for {spec.name!r}")

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The store of a folder. Raises `StudyError` if it is missing, damaged or of another format."""
        store = cls(store_path(folder))
        ((version,),) = store._rows("pragma user_version")
        if version != FORMAT:
            raise StudyError(
                f"{store.path} has format {version}, expected {FORMAT}: run the study again with another --output"
            )
        store.count()
        return store

    def spec(self) -> StudySpec:
        rows = self._rows("select spec from study")
        if not rows:
            raise StudyError(f"{self.path}: the specification is missing")
        try:
            return parse_spec(json.loads(rows[0][0]))
        except (AerogelError, ValueError, TypeError, RecursionError) as error:
            raise StudyError(f"{self.path}: the specification can't be read: {first_line(error)}") from error

    def open_trials(self) -> list[Trial]:
        """The trials to run, in order: new, interrupted and failed ones."""
        rows = self._rows("select place, trial from trials where place >= 0 and status != 'done' order by place")
        spec = self.spec()
        return [self._trial(spec, place, text) for place, text in rows]

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        with writing(self.path), self._transaction("begin immediate") as connection:
            connection.execute(
                "update trials set status = ?, result = ? where key = ?",
                ["failed" if isinstance(outcome, Failed) else "done", json.dumps(asdict(outcome)), trial.key],
            )

    def reopen(self, trials: Sequence[Trial]) -> None:
        """Forgets the outcomes of these trials, so that they run again."""
        with writing(self.path), self._transaction("begin immediate") as connection:
            connection.executemany(
                "update trials set status = 'open', result = null where key = ?", [[trial.key] for trial in trials]
            )

    def outcomes(self) -> list[tuple[Trial, Outcome]]:
        """The trials that have run, done or failed, in order."""
        rows = self._rows(
            "select place, trial, status, result from trials where place >= 0 and result is not null order by place"
        )
        spec, outcomes = self.spec(), []
        for place, text, status, result in rows:
            trial = self._trial(spec, place, text)
            try:
                outcomes.append((trial, trial.read_outcome(status, result)))
            except (ValueError, TypeError, RecursionError) as error:
                problem = f"the result of trial {trial.label} is invalid: {first_line(error)}"
                raise StudyError(f"{self.path}: {problem}") from error
        return outcomes

    def count(self) -> int:
        return int(self._rows("select count(*) from trials where place >= 0")[0][0])

    def _trial(self, spec: StudySpec, place: Any, text: Any) -> Trial:
        try:
            trial = trial_from_json(text)
            _check_belongs(trial, spec)
        except (AerogelError, ValueError, TypeError, RecursionError) as error:
            raise StudyError(f"{self.path}: trial {excerpt(place)} can't be read: {first_line(error)}") from error
        return trial

    def _rows(self, query: str) -> list[Any]:
        with self._transaction("begin") as connection:
            return connection.execute(query).fetchall()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction. Waits while another process holds the file locked."""
        verb = "read" if begin == "begin" else "written"
        try:
            with closing(sqlite3.connect(self.path, timeout=1, isolation_level=None)) as connection:
                self._patiently(connection, begin)
                self._patiently(connection, "select count(*) from sqlite_master")  # takes the lock to read
                yield connection
                self._patiently(connection, "commit")
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_FULL:
                raise
            if code == sqlite3.SQLITE_BUSY:
                raise StudyError(f"{self.path}: another process has kept it locked for {PATIENCE:g} s") from error
            raise StudyError(f"{self.path} can't be {verb}: {first_line(error)}") from error

    def _patiently(self, connection: sqlite3.Connection, statement: str) -> None:
        """Executes a statement, again each second while another process holds the file locked."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                connection.execute(statement).fetchall()
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            progress.update(f"waiting for {self.path}, which another process holds locked")


def _check_belongs(trial: Trial, spec: StudySpec) -> None:
    """Raises `ValueError` for a trial that is not one of the study's."""
    values: list[tuple[str, object, tuple]] = [("model", trial.model, spec.models)]
    if isinstance(trial, Scoring | SensitivityAnalysis):
        values.append(("task", trial.task, spec.tasks))
    if isinstance(trial, Scoring | Benchmark):
        if trial.variant.method:
            values.append(("method", trial.variant.method, spec.methods))
        if trial.variant.recovery:
            values.append(("recovery", trial.variant.recovery, spec.recoveries))
        if trial.variant.structure:
            values.append(("structure", trial.variant.structure, spec.structures))
        if trial.values:
            values.append(("value type", trial.values, spec.values))
        values.append(("sparsity", trial.sparsity, (0, *spec.sparsities)))
    for name, value, known in values:
        if value not in known:
            raise ValueError(f"{name} {excerpt(value)} is not in the study")
