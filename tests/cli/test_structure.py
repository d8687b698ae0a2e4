"""Structured pruning by the commands: what is left, how it composes with zeros and int8, and bad options."""

import json
from pathlib import Path

import pytest

from aerogel.cli.main import run

TEXT = ("--calibration", "python-reference", "--samples", "4")


def aerogel(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def inspected(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert aerogel("inspect", folder, "--json") == 0
    report: dict = json.loads(capsys.readouterr().out)
    return report


def kept(report: dict) -> int:
    return sum(entry["kept"] for entry in report["structure"])


def test_structures_then_zeros_in_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, packed = tmp_path / "small", tmp_path / "packed"
    assert aerogel("prune", "tiny-bert", "--structure", "--sparsity", 0.5, *TEXT, "--output", small) == 0
    assert "heads" in capsys.readouterr().err
    card = (small / "README.md").read_text()
    assert "sparsity=0.5" in card
    assert "import aerogel" in card
    assert "magnitude" not in card
    zeros = ("--sparsity", 0.8, "--pattern", "block:1x4", "--values", "int8")
    target = ("--structure", "--parameters", "1.2e6")
    assert aerogel("prune", "tiny-bert", *target, *zeros, *TEXT, "--output", packed) == 0
    dense, structured, both = (inspected(folder, capsys) for folder in (Path("tiny-bert"), small, packed))
    assert "structure" not in dense
    assert structured["sparsity"] == 0
    assert structured["parameters"] < dense["parameters"]
    assert both["parameters"] <= 1_200_000
    assert set(both["packed"]) == {"int8"}
    assert both["sparsity"] >= 0.79
    for report in (structured, both):
        assert 0 < kept(report) < sum(entry["original"] for entry in report["structure"])


def test_a_chart_shows_what_each_layer_has_kept(tmp_path: Path) -> None:
    small, charts = tmp_path / "small", tmp_path / "charts"
    assert aerogel("prune", "tiny-gpt2", "--structure", "--sparsity", 0.3, *TEXT, "--output", small) == 0
    assert aerogel("inspect", small, "--output", charts) == 0
    chart = (charts / "structure.svg").read_text()
    assert chart.count("attention") == chart.count("feed-forward") == 4


def test_an_equal_structure_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    small = tmp_path / "small"
    command = ("prune", "tiny-bert", "--structure", "--uniform", "--sparsity", 0.4, *TEXT, "--output", small)
    assert aerogel(*command) == 0
    config = json.loads((small / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["num_hidden_layers"], config["intermediate_size"]) != (4, 512)
    assert "import aerogel" not in (small / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--speedup", "2"], "--speedup needs --structure"),
        (["--uniform"], "--uniform needs --structure"),
        (["--runtime", "torch"], "--runtime needs --structure"),
        (["--structure"], "--speedup"),
        (["--structure", "--speedup", "2", "--size", "4MB"], "--size"),
        (["--structure", "--size", "4MB", "--runtime", "torch"], "--runtime"),
        (["--structure", "--size", "four"], "four"),
        (["--structure", "--speedup", "nan"], "nan"),
    ],
)
def test_options_that_contradict_are_usage_errors(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aerogel("prune", "tiny-bert", *options, *TEXT, "--output", tmp_path / "new") == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--speedup", "1"], "speedup 1"),
        (["--size", "100kB"], "out of reach"),
        (["--parameters", "10"], "out of reach"),
    ],
)
def test_targets_out_of_reach_are_refused(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aerogel("prune", "tiny-bert", "--structure", *options, *TEXT, "--output", tmp_path / "new") == 1
    error = capsys.readouterr().err
    assert named in error
    assert not (tmp_path / "new").exists()


def test_structures_need_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert aerogel("prune", "tiny-bert", "--structure", "--sparsity", 0.5, "--output", tmp_path / "new") == 1
    assert "--calibration" in capsys.readouterr().err
