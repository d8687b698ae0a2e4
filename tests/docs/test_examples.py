"""The commands and the Python code of README and guides run, each page from top to bottom, with tiny models.

A block after `<!-- not run: REASON -->` does not run: its test is skipped, and names it and the reason. The options of
its commands must exist all the same.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from aerogel.cli.main import aerogel, run
from builders import sentences

ROOT = Path(__file__).parents[2]
TESTED_ELSEWHERE = ("fuse-a-family", "write-a-task-kind")  # with the tests of families and of kinds
PAGES = [page for page in sorted(ROOT.glob("docs/*.md")) if page.stem not in TESTED_ELSEWHERE]
PAGES.append(ROOT / "README.md")
REASONS = {"adapters", "build", "device", "hub", "install", "long", "other program", "placeholders", "server"}
BLOCK = re.compile(r"(?:<!-- not run: ([\w ]+) -->\n)?```(sh|python)\n(.*?)```", re.DOTALL)
QUICK = {  # a command has an option at most twice, and the last counts
    "bench": ["--batch-size", "1", "--rounds", "1", "--sequence-length", "8", "--training-steps", "1"],
    "evaluate": ["--limit", "4", "--max-length", "16"],
    "finetune": ["--limit", "16", "--epochs", "1", "--batch-size", "1", "--max-length", "16"],
    "prune": ["--samples", "2"],
}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def commands(self) -> list[list[str]]:
        return [shlex.split(line) for line in self.text.splitlines() if line] if self.language == "sh" else []


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], match[3], match[1])
        for match in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]
NOT_RUN = [block for block in ALL if block.reason]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "page", dict.fromkeys(block.page for block in ALL if not block.reason), ids=lambda page: page.stem
)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f'"{text}",{1 + 4 * label}\n' for text, label in sentences(40))
    Path("reviews.csv").write_text("review,stars\n" + rows, encoding="utf-8")
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.reason:
            continue
        if block.language == "python":
            code = compile("\n" * (block.line) + block.text, str(page), "exec")
            exec(code, names)
        for program, command, *arguments in block.commands:
            assert program == "aerogel", f"{page.name}:{block.line}: mark a block that is not run"
            assert run([command, *arguments, *QUICK.get(command, [])]) == 0, f"{page.name}:{block.line}: {command}"


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: f"{block.page.stem}:{block.line}")
def test_what_is_not_run_is_named(block: Block) -> None:
    assert block.reason in REASONS
    for program, *words in block.commands:
        if program == "aerogel" and block.reason != "other program":  # which must be installed for its option
            name, *arguments = [word.replace("MODEL", "tiny-bert") for word in words]
            command = aerogel.commands[name]
            command.make_context(name, list(arguments))  # raises click.UsageError for an unknown option
    first = block.text.strip().splitlines()[0]
    pytest.skip(f"{block.reason}: {first}")


def test_an_option_that_does_not_exist_is_found() -> None:
    with pytest.raises(click.UsageError):
        aerogel.commands["prune"].make_context("prune", ["tiny-bert", "--sparseness", "1"])
