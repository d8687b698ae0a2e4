"""A method is one file, found by itself, and says what it is."""

import importlib
import pkgutil
from pathlib import Path

import pytest
import torch

import aerogel.pruning
from aerogel.errors import PruningError
from aerogel.pruning import Pattern, Statistics, all_methods, method

FILES = importlib.import_module("aerogel.pruning.methods")


def test_every_file_is_a_method_that_describes_itself() -> None:
    names = [entry.name for entry in pkgutil.iter_modules(FILES.__path__)]
    found = [importlib.import_module(f"{FILES.__name__}.{name}").METHOD for name in names]
    assert {made.name: made for made in found} == all_methods()
    assert len(all_methods()) == len(names) >= 2
    for made in found:
        assert made.name
        assert made.description
        assert any(character.isdigit() for character in made.paper)  # the year
        assert made.needs == "nothing"
        assert method(made.name) is made


def test_another_file_is_another_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smallest.py").write_text(
        "from aerogel.pruning.method import ranking\n"
        "METHOD = ranking('smallest', lambda weight, _: -weight.abs(), 'nothing', 'keeps the smallest', '2026')\n"
    )
    monkeypatch.setattr(FILES, "__path__", [*FILES.__path__, str(tmp_path)])
    all_methods.cache_clear()
    try:
        weight = torch.tensor([[3.0, -1.0], [2.0, 4.0]])
        statistics = Statistics(torch.Generator())
        mask, values = method("smallest").prune(weight, statistics, Pattern.parse("unstructured"), 0.5)
        assert mask.tolist() == [[False, True], [True, False]]
        assert torch.equal(values, weight)
    finally:
        monkeypatch.undo()
        all_methods.cache_clear()
    assert "smallest" not in all_methods()


@pytest.mark.parametrize("name", sorted(all_methods()))
def test_scores_have_the_shape_of_the_weights(name: str) -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    made = method(name)
    mask, values = made.prune(weight, Statistics(torch.Generator().manual_seed(1)), Pattern.parse("2:4"), 0.5)
    assert mask.shape == values.shape == weight.shape
    if made.score:
        scores = made.score(weight, Statistics(torch.Generator().manual_seed(1)))
        assert torch.equal(Pattern.parse("2:4").mask(scores, 0.5), mask)


def test_the_folder_of_methods_hides_no_name() -> None:
    method("magnitude")
    assert aerogel.pruning.methods is FILES
    assert all(getattr(aerogel.pruning, name) is not FILES for name in aerogel.pruning.__all__)


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(PruningError, match="unknown method 'magnitud': did you mean magnitude"):
        method("magnitud")
    with pytest.raises(PruningError, match="unknown method 'xyz': known are magnitude, random"):
        method("xyz")
