"""Stores to report on: a finished small study, and copies of it with something missing or wrong."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from aerogel.report import build_report
from aerogel.report.collect import collect
from aerogel.report.findings import Findings
from aerogel.study import Store

Change = Callable[[sqlite3.Connection], object]


@pytest.fixture(scope="session")
def finished(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that the report is not in the folder of another test."""
    return Path(shutil.copytree(study_folder, tmp_path_factory.mktemp("reports") / "finished"))


@pytest.fixture(scope="session")
def findings(finished: Path) -> Findings:
    return collect(Store.open(finished))


@pytest.fixture(scope="session")
def page(finished: Path) -> str:
    return build_report(finished).read_text(encoding="utf-8")


@pytest.fixture
def changed(finished: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Copies the finished study and changes the copy's store."""

    def change(how: Change) -> Path:
        folder = Path(shutil.copytree(finished, tmp_path / "changed"))
        with closing(sqlite3.connect(Store.open(folder).path)) as connection, connection:
            how(connection)
        return folder

    return change
