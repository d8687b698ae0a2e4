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
    assert bool(spec.recoveries) == (name != "reports")


def test_a_specification_survives_json() -> None:
    spec = load_spec("starter")
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec


def test_the_dense_model_belongs_to_every_study() -> None:
    assert parse_spec({"name": "x", "models": ["a"], "sparsities": [0.5, 0.9]}).sparsities == (0, 0.5, 0.9)
    assert parse_spec({"name": "x", "models": ["a"], "sparsities": [0.5, 0]}).sparsities == (0.5, 0)


def test_variants_fill_the_lists() -> None:
    variants = [{"method": "best"}, {"recovery": "gradual", "values": "int8"}, {"recovery": "gradual"}]
    spec = parse_spec({"name": "x", "models": ["a"], "variants": variants})
    lists = (spec.methods, spec.recoveries, spec.values, spec.structures)
    assert lists == (("best",), ("none", "gradual"), ("float32", "int8"), ("none",))
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec
    assert parse_spec(spec.model_dump(exclude_none=True)) == spec


def test_columns_are_of_tasks() -> None:
    columns = {"own.csv": {"text": "review"}}
    spec = parse_spec({"name": "x", "models": ["a"], "tasks": ["own.csv"], "columns": columns})
    assert spec.columns == columns
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec
    with pytest.raises(StudyError, match=r"columns: 'own\.csv'"):
        parse_spec({"name": "x", "models": ["a"], "tasks": ["sst2"], "columns": columns})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("models = 3", "models"),
        ('name = "x"\nmodels = []', "models"),
        ('name = "x"\nmodels = ["a"]\nsparsities = [1.0]', "sparsities.0"),
        (
            'name = "x"\nmodels = ["a"]\nsparsities = [0, 90]',
            "sparsities.1: sparsity 90 is outside [0, 1): did you mean 0.9",
        ),
        ('name = "x"\nmodels = ["a"]\nsparsities = ["50%"]', "did you mean 0.5"),
        ('name = "x"\nmodels = ["a"]\nsparsities = [nan]', "sparsities.0"),
        ('name = "x"\nmodels = ["a"]\nsparsity = 0.5', "sparsity"),
        ('name = ".."\nmodels = ["a"]', "name"),
        ('name = "a\\u0000b"\nmodels = ["a"]', "name"),
        ('name = "x"\nmodels = ["a"]\nseeds = [-1]', "seeds.0"),
        ('name = "x"\nmodels = ["a"]\nseeds = [4294967296]', "seeds.0"),
        (f'name = "x"\nmodels = ["a"]\nseeds = [{"9" * 3900}]', "seeds.0"),
        (f'name = "x"\nmodels = ["a"]\nseeds = [0x{"f" * 3900}]', "seeds.0"),
        (f'name = "x"\nmodels = ["a"]\nseeds = {list(range(800))}\ntasks = {list(map(str, range(300)))}', "720,003"),
        ('name = "x"\nmodels = ["a"]\nprocesses = 1000000000', "processes"),
        ('name = "x"\nmodels = ["a"]\n[training]\nepochs = inf', "training.epochs"),
        ('name = "x"\nmodels = ["a"]\n[training]\nepochs = nan', "training.epochs"),
        (f'name = "x"\nmodels = ["a"]\n[benchmark]\nbatch_size = 1{"0" * 30}', "benchmark.batch_size"),
        ('name = "x"\nmodels = ["a"]\n[resources]\ncpus = 0', "resources.cpus"),
        ('name = "x"\nmodels = ["a"]\n[resources]\ngpus = 1.5', "resources.gpus"),
        ('name = "x"\nmodels = ["a"]\n[resources]\nmemory_gb = nan', "resources.memory_gb"),
        (f"a = {'[' * 3000}", "spec.toml"),
        (f"{'.'.join('a' * 3000)} = 1", "line 1"),
        ("a = 1\n" * 20_000, "bytes"),
        (
            'name = "x"\nmodels = ["a"]\nmethods = ["magnitud"]',
            "methods.0: unknown method 'magnitud': did you mean magnitude",
        ),
        (
            'name = "x"\nmodels = ["a"]\nrecoveries = ["gradul"]',
            "recoveries.0: unknown recovery 'gradul': did you mean gradual?",
        ),
        (
            'name = "x"\nmodels = ["a"]\nvalues = ["float32", "int4"]',
            "values.1: unknown value type 'int4': did you mean int8",
        ),
        ('name = "x"\nmodels = ["a"]\nvalues = ["fp32"]', "values.0: unknown value type 'fp32'"),
        ('name = "x"\nmodels = ["a"]\nvalues = []', "values"),
        ('name = "x"\nmodels = ["a"]\nstructures = []', "structures"),
        ('name = "x"\nmodels = ["a"]\nstructures = ["non"]', "structures.0"),
        ('name = "x"\nmodels = ["a"]\nstructures = ["none", "speed=2"]', "structures.1"),
        ('name = "x"\nmodels = ["a"]\nstructures = ["speed=2"]', "did you mean speedup"),
        ('name = "x"\nmodels = ["a"]\nstructures = ["sparsity=50"]', "did you mean 0.5"),
        ('name = "x"\nmodels = ["a"]\nstructures = [2]', "structures.0"),
        ('name = "x"\nmodels = ["a"]\nvalues = "int8"', "values"),
        ('name = "x"\nmodels = ["a"]\n[[variants]]\nmethod = "bst"', "variants.0.method: unknown method 'bst'"),
        ('name = "x"\nmodels = ["a"]\n[[variants]]\nrecovery = "gradual"\nmethod = "best"', "variants.0: method"),
        ('name = "x"\nmodels = ["a"]\n[[variants]]\nmethod = "best"\nsparsities = [0.8]', "variants: 0.8"),
        (
            'name = "x"\nmodels = ["a"]\nvalues = ["int8"]\n[[variants]]\nmethod = "best"',
            "values: the variants have float32",
        ),
        ('name = "x"\nmodels = ["a"]\n[[variants]]\nmethod = "best"\npattern = "2:4"', "pattern 2:4"),
        ('name = "x"\nmodels = ["a"]\n[[variants]]\npattern = "2:4"', "variants.0: method"),
        ('name = "x"\nmodels = ["a"]\n[recovery]\nscore = "movment"', "did you mean movement"),
        ('name = "x"\nmodels = ["a"]\n[recovery]\nepochs = 0', "recovery.epochs"),
        ('name = "x"\nmodels = ["a"]\nscope = "rows"', "scope"),
        ('name = "x"\nmodels = ["a"]\nallocation = "owls"', "allocation"),
        ('name = "x"\nmodels = ["a"]\ninclude = ["heds"]', "include.0: unknown target 'heds': did you mean heads"),
        ('name = "x"\nmodels = ["a"]\npattern = "3:2"', "0 < N < M"),
        ('name = "x"\nmodels = ["a"]\npattern = "2:4"\nsparsities = [0, 0.9]', "0.5"),
        ('name = "../x"\nmodels = ["a"]', "name: "),
        ('name = ""\nmodels = ["a"]', "name: "),
        ('name = "x"\nmodels = ["a"]\n[training]\nepochs = 0', "training.epochs"),
        ("name = x", "line 1"),
    ],
)
def test_a_wrong_specification_names_the_file_and_the_field(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(AerogelError) as error:
        load_spec(str(path))
    assert named in str(error.value)
    assert "spec.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_studies_get_the_nearest_names() -> None:
    with pytest.raises(StudyError, match="starter"):
        load_spec("startr")
    with pytest.raises(StudyError, match=r"nowhere\.toml"):
        load_spec("nowhere.toml")


def test_repeated_entries_count_once() -> None:
    structures = ["speedup=2", "speedup=2.0", "none", "size=40MB", "size=40000kB"]
    spec = parse_spec({"name": "x", "models": ["a", "a"], "seeds": [1, 1, 2], "structures": structures})
    assert spec.structures == ("speedup=2", "none", "size=40MB")
    assert spec.models == ("a",)
    assert spec.seeds == (1, 2)
