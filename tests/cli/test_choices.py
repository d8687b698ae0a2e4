"""The command line, TOML files and Python accept the same names."""

import re

import click
import pytest

from aerogel import GradualPruning, PruneConfig
from aerogel.cli.main import aerogel, run
from aerogel.errors import AerogelError
from aerogel.models.targets import TARGETS
from aerogel.pruning import ALLOCATIONS, METHODS, ROUNDED_VALUES, SCOPES, SCORES, all_methods
from aerogel.study import parse_spec
from aerogel.study.variant import VALUES
from aerogel.training.config import PRECISIONS, TrainingConfig
from aerogel.training.schedule import SCHEDULES

OPTIONS = [
    ("prune", "--method", METHODS),
    ("prune", "--scope", SCOPES),
    ("prune", "--allocation", ALLOCATIONS),
    ("prune", "--include", TARGETS[1:]),
    ("inspect", "--include", TARGETS[1:]),
    ("finetune", "--score", SCORES),
    ("finetune", "--schedule", SCHEDULES),
    ("finetune", "--precision", PRECISIONS),
    ("finetune", "--values", ROUNDED_VALUES),
    ("prune", "--values", tuple(name for name, choice in VALUES.items() if choice)),
]
FIELDS = [
    *(("methods", METHODS), ("scope", SCOPES), ("allocation", ALLOCATIONS), ("include", TARGETS[1:])),
    ("values", tuple(VALUES)),
]


@pytest.mark.parametrize(("command", "option", "names"), OPTIONS, ids=lambda value: str(value)[:20])
def test_help_lists_the_names(
    command: str, option: str, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (parameter,) = (parameter for parameter in aerogel.commands[command].params if option in parameter.opts)
    if isinstance(parameter.type, click.Choice):
        assert tuple(parameter.type.choices) == names
    assert run([command, "--help"]) == 0
    text = re.sub(r"\s+", "", capsys.readouterr().out)
    assert ",".join(names) in text or "|".join(names) in text


def spec(field: str, value: object) -> object:
    several = field in ("methods", "include", "values")
    return parse_spec({"name": "s", "models": ["tiny-bert"], field: [value] if several else value})


@pytest.mark.parametrize(("field", "names"), FIELDS, ids=lambda value: str(value)[:20])
def test_toml_accepts_the_names(field: str, names: tuple[str, ...]) -> None:
    for name in names:
        spec(field, name)
    with pytest.raises(AerogelError, match="nonsense"):
        spec(field, "nonsense")


@pytest.mark.parametrize("field", ["method", "scope", "allocation"])
def test_python_accepts_the_names(field: str) -> None:
    for name in {"method": METHODS, "scope": SCOPES, "allocation": ALLOCATIONS}[field]:
        assert getattr(PruneConfig(**{field: name}), field) == name
    with pytest.raises(AerogelError, match="nonsense"):
        PruneConfig(**{field: "nonsense"})


def test_gradual_pruning_accepts_the_scores_and_schedules() -> None:
    for name in SCORES:
        assert parse_spec({"name": "s", "models": ["tiny-bert"], "recovery": {"score": name}}).recovery.score == name
        assert GradualPruning(PruneConfig(name, 0.9)).pruning.method == name
    for schedule in SCHEDULES:
        assert GradualPruning(PruneConfig("magnitude", 0.9), schedule).schedule == schedule
    for precision in PRECISIONS:
        assert TrainingConfig(precision=precision).precision == precision
    with pytest.raises(AerogelError, match="nonsense"):
        parse_spec({"name": "s", "models": ["tiny-bert"], "recovery": {"score": "nonsense"}})
    with pytest.raises(AerogelError, match="nonsense"):
        TrainingConfig(precision="nonsense")


def test_every_method_is_a_score() -> None:
    assert set(METHODS) < set(SCORES) == set(all_methods())
