"""Specifications: built in, from a file, and wrong."""

from pathlib import Path

import pytest

from aerogel.errors import AerogelError, StudyError
from aerogel.study import BUILT_IN, load_spec, parse_spec


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_studies_are_well_formed(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    assert {0, 0.9, 0.95} <= set(spec.sparsities)
    assert bool(spec.recoveries) == (name == "recovery")


def test_a_specification_survives_json() -> None:
    spec = load_spec("starter")
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models = 3", "models"),
        ('name = "x"\nmodels = []', "models"),
        ('name = "x"\nmodels = ["a"]\nsparsities = [1.0]', "sparsities.0"),
        ('name = "x"\nmodels = ["a"]\nsparsity = 0.5', "sparsity"),
        ('name = "x"\nmodels = ["a"]\nmethods = ["magnitud"]', "did you mean magnitude"),
        ('name = "x"\nmodels = ["a"]\nrecoveries = ["gradul"]', "unknown recovery 'gradul': did you mean gradual?"),
        ('name = "x"\nmodels = ["a"]\n[recovery]\nscore = "movment"', "did you mean movement"),
        ('name = "x"\nmodels = ["a"]\n[recovery]\nepochs = 0', "recovery.epochs"),
        ('name = "x"\nmodels = ["a"]\npattern = "3:2"', "0 < N < M"),
        ('name = "x"\nmodels = ["a"]\npattern = "2:4"\nsparsities = [0, 0.9]', "fixes the sparsity at 0.5"),
        ('name = "../x"\nmodels = ["a"]', "a name that a folder can have"),
        ('name = ""\nmodels = ["a"]', "a name that a folder can have"),
        ('name = "x"\nmodels = ["a"]\n[training]\nepochs = 0', "training.epochs"),
        ("name = x", "line 1"),
    ],
)
def test_a_wrong_specification_names_the_file_and_the_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(AerogelError) as error:
        load_spec(str(path))
    assert said in str(error.value)
    assert "spec.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_studies_get_the_nearest_names() -> None:
    with pytest.raises(StudyError, match="did you mean starter"):
        load_spec("startr")
    with pytest.raises(StudyError, match="no such file"):
        load_spec("nowhere.toml")


def test_repeated_entries_count_once() -> None:
    spec = parse_spec({"name": "x", "models": ["a", "a"], "seeds": [1, 1, 2]})
    assert spec.models == ("a",)
    assert spec.seeds == (1, 2)
