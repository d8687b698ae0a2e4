"""The packages that aerogel depends on, and their versions.

python tools/versions.py names        # the names, one per line
python tools/versions.py installed    # a table of installed and pinned versions
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def ranges() -> dict[str, str]:
    """The range of each dependency in pyproject.toml, `>=2.10,<2.16`, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    matches = (re.fullmatch(r"([\w-]+)(.*)", text) for text in project["dependencies"])
    return {match[1]: match[2] for match in matches if match}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.lower().split("==") for line in lines if "==" in line)


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def main(what: str) -> None:
    if what == "names":
        print("\n".join(ranges()))
    elif what == "installed":
        print(f"{'package':20}{'installed':22}{'pinned':18}range")
        for name, text in ranges().items():
            mark = "*" if installed(name) != pinned().get(name) else " "
            print(f"{name:20}{installed(name):20}{mark} {pinned().get(name, ''):18}{text}")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
