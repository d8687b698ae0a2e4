"""The public names of the package: their examples run, and type checkers find the annotations."""

import doctest
import sys
from importlib import resources
from inspect import cleandoc
from pathlib import Path

import pytest

import aerogel


def examples(name: str) -> list[doctest.DocTest]:
    """The examples in the docstrings of a public object and its methods."""
    value = getattr(aerogel, name)
    module = sys.modules[value.__module__]
    return [test for test in doctest.DocTestFinder().find(value, name, module) if test.examples]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # from peft, about transformers
@pytest.mark.parametrize("name", aerogel.__all__)
def test_public_names_have_examples_that_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tests = examples(name)
    assert tests, f"{name} has no example"
    for test in tests:
        report: list[str] = []
        outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
        assert not outcome.failed, "".join(report)


def test_the_help_of_the_package_begins_with_an_example_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, names = (aerogel.__doc__ or "").partition("\n\n")[2].partition("\n\nAfter")
    exec(cleandoc(code), {})
    assert (tmp_path / "sparse" / "config.json").is_file()
    main = [name for line in names.splitlines() if line.startswith("    ") for name in line.split("  ")[2].split(", ")]
    assert set(main) <= set(aerogel.__all__)


def test_the_package_has_type_annotations() -> None:
    assert (resources.files("aerogel") / "py.typed").is_file()
