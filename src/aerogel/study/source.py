"""The TOML of a study and the path of its store, read without importing torch."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from aerogel.errors import StudyError, excerpt, first_line, unknown_name

BUILT_IN = ("starter", "reports", "recovery")
"""The names of the studies in the package."""
STORE = "study.sqlite"
MOST_BYTES, LONGEST_LINE = 100_000, 4000  # tomllib takes time that grows with the square of a dotted key


def read_values(name: str) -> dict[str, Any]:
    """The plain values of a built-in study, or of one in a TOML file.

    Raises `StudyError` for an unknown name, and a file that can't be read or is not TOML.
    """
    if name in BUILT_IN:
        return tomllib.loads((resources.files("aerogel.study") / "builtin" / f"{name}.toml").read_text("utf-8"))
    if not name.endswith(".toml"):
        raise StudyError(unknown_name("study", name, BUILT_IN) + "; or give a .toml file")
    path = Path(name)
    if not path.is_file():
        raise StudyError(f"{name}: no such file")
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise StudyError(f"{name}: can't be read: {error.strerror}") from error
    if len(raw) > MOST_BYTES:
        raise StudyError(f"{name}: more than {MOST_BYTES:,} bytes, the limit for a specification")
    for number, line in enumerate(raw.splitlines(), start=1):
        if len(line) > LONGEST_LINE:
            raise StudyError(f"{name}, line {number}: {len(line):,} bytes, expected at most {LONGEST_LINE:,} in a line")
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{name}, line {number}: not UTF-8 (byte 0x{raw[error.start]:02x})") from error
    except RecursionError as error:
        raise StudyError(f"{name}: its values are nested too deeply") from error
    except ValueError as error:  # wrong TOML, or an integer of thousands of digits
        raise StudyError(f"{name}: {first_line(error)}") from error


def store_path(folder: Path) -> Path:
    """The path of the store in a study's folder. Raises `StudyError` if there is none."""
    path = folder / STORE
    if "\0" in str(folder) or not path.is_file():
        raise StudyError(f"{excerpt(str(folder))} has no {STORE}: it is not the folder of a study")
    return path
