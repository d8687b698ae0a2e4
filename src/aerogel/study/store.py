"""Where a study keeps its trials and results: one SQLite file, the only thing that the report reads."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aerogel.errors import StudyError, writing
from aerogel.study.spec import StudySpec, parse_spec
from aerogel.study.trial import Result, Trial

FILE = "study.sqlite"
VERSION = 1
TABLES = (
    "create table if not exists study (id integer primary key check (id = 1), spec text not null)",
    "create table if not exists trials (key text primary key, place integer not null, trial text not null, "
    "status text not null default 'open', result text)",
)


class Store:
    """The trials of a study and their results. One process writes, a result a transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, folder: Path, spec: StudySpec, trials: Sequence[Trial]) -> Store:
        """Opens or makes the store of a folder and lists these trials in it, keeping the results it has.

        Raises `StudyError` where the folder holds a study of another name, or a file that is no store.
        """
        store = cls(folder / FILE)
        if store.path.exists() and store.path.stat().st_size:  # an empty one was interrupted when it was made
            found = cls.open(folder).spec().name
            if found != spec.name:
                raise StudyError(f"{folder} holds the study {found!r}: give another --output for {spec.name!r}")
        with writing(store.path):
            folder.mkdir(parents=True, exist_ok=True)
            with store._connect() as connection:
                connection.execute("begin")  # sqlite3 opens a transaction for rows, not for tables
                for table in TABLES:
                    connection.execute(table)
                connection.execute(f"pragma user_version = {VERSION}")
                connection.execute("insert or replace into study values (1, ?)", [spec.model_dump_json()])
                connection.execute("update trials set place = -1")  # of another specification, unless listed now
                connection.executemany(
                    "insert into trials (key, place, trial) values (?, ?, ?) "
                    "on conflict (key) do update set place = excluded.place",
                    [(trial.key, place, json.dumps(asdict(trial))) for place, trial in enumerate(trials)],
                )
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The store of a folder. Raises `StudyError` where there is none, or it is damaged."""
        store = cls(folder / FILE)
        if not store.path.is_file():
            raise StudyError(f"{folder} has no {FILE}: it is not the output of a study")
        try:
            with store._connect() as connection:
                version = connection.execute("pragma user_version").fetchone()[0]
                connection.execute("select count(*) from trials").fetchone()
        except sqlite3.DatabaseError as error:
            raise StudyError(f"{store.path} can't be read: {error}") from error
        if version != VERSION:
            raise StudyError(f"{store.path} has format {version}, and this aerogel reads {VERSION}")
        return store

    def spec(self) -> StudySpec:
        (text,) = self._rows("select spec from study")[0]
        return parse_spec(json.loads(text))

    def open_trials(self) -> list[Trial]:
        """The trials without a good result, in order: those never run, cut off, or failed."""
        rows = self._rows("select trial from trials where place >= 0 and status != 'done' order by place")
        return [Trial.from_dict(json.loads(text)) for (text,) in rows]

    def finish(self, trial: Trial, result: Result) -> None:
        with writing(self.path), self._connect() as connection:
            connection.execute(
                "update trials set status = ?, result = ? where key = ?",
                [result.status, json.dumps(asdict(result)), trial.key],
            )

    def results(self) -> list[tuple[Trial, Result]]:
        """The trials that have run, good or failed, in order."""
        rows = self._rows("select trial, result from trials where place >= 0 and result is not null order by place")
        return [(Trial.from_dict(json.loads(trial)), Result(**json.loads(result))) for trial, result in rows]

    def count(self) -> int:
        return int(self._rows("select count(*) from trials where place >= 0")[0][0])

    def _rows(self, query: str) -> list[Any]:
        try:
            with self._connect() as connection:
                return connection.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            raise StudyError(f"{self.path} can't be read: {error}") from error

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction, closed after it."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            yield connection
