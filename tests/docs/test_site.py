"""The build of the site fails at an undocumented public name and at a page that loads something from the network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
from sphinx.cmd.build import build_main

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Builds a site of one page, and returns the exit code."""

    def run(page: str, *extensions: str) -> int:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        monkeypatch.syspath_prepend(str(EXTENSIONS))
        names = ["myst_parser", "sphinx.ext.autodoc", *extensions]
        (source / "conf.py").write_text(f"extensions = {names}\nnitpicky = True\n", encoding="utf-8")
        (source / "index.md").write_text(page, encoding="utf-8")
        return build_main(["-q", "-W", "-E", "-b", "html", str(source), str(tmp_path / "built")])

    return run


@pytest.mark.filterwarnings("ignore")
def test_a_page_that_loads_from_the_network_fails(
    build: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("# Page\n\n<a href='https://example.org'>a link is not loaded</a>", "offline") == 0
    assert build("# Page\n\n<script src='https://example.org/a.js'></script>", "offline") != 0
    assert "https://example.org/a.js" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_a_public_name_without_documentation_fails(
    build: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    page = "# Page\n\n```{public-names} %s\n```"
    for name, docstring in (("described", '    """Does it."""\n'), ("bare", "")):
        code = f'__all__ = ["work"]\n\n\ndef work():\n{docstring}    return 1\n'
        (tmp_path / f"{name}_package.py").write_text(code, encoding="utf-8")
    assert build(page % "described_package", "public_names") == 0
    assert build(page % "bare_package", "public_names") != 0
    assert "bare_package.work" in capsys.readouterr().err
    for name in ("described_package", "bare_package"):
        sys.modules.pop(name, None)
