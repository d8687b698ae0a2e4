"""The commands: results, exit codes, errors in one sentence, no partial outputs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aerogel.cli.main import run
from aerogel.models import ZOO
from builders import sentences, write_tsv

SENTENCES = [
    ("what a fine and happy film", 1),
    ("a dull and dreadful bore", 0),
    ("happy from first to last", 1),
    ("nothing but dull noise", 0),
] * 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one task."""
    folder = tmp_path / "data"
    (folder / "moods").mkdir(parents=True)
    rows = "".join(f"{sentence}\t{label}\n" for sentence, label in SENTENCES)
    for split in ("train", "validation"):
        (folder / "moods" / f"{split}.tsv").write_text("sentence\tlabel\n" + rows)
    return folder


def aerogel(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def test_models_lists_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert aerogel("models") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ZOO)
    assert aerogel("models", "--json") == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list(ZOO)


def test_markup_in_names_is_printed_literally(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a[red]b[/c]"
    shutil.copytree(str(ZOO["tiny-bert"].locate()), folder)
    assert aerogel("inspect", folder) == 0
    assert f"{folder}, by layer" in capsys.readouterr().out


def test_libraries_print_nothing() -> None:
    script = "import sys; from aerogel.cli import main; sys.argv = 'aerogel evaluate tiny-gpt2 --limit 1'.split() + "
    script += "['--tasks', 'python-reference']; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    # on a slow machine there are lines of progress
    source, following = [line for line in done.stderr.splitlines() if "so far" not in line]
    assert "python-reference" in source
    assert following.startswith("next: aerogel ")


@pytest.mark.parametrize("command", ["prune", "finetune"])
def test_seeds_out_of_range_are_refused(command: str, tmp_path: Path) -> None:
    assert aerogel(command, "tiny-bert", "--seed", -1, "--output", tmp_path / "out") == 2
    assert aerogel(command, "tiny-bert", "--seed", 2**32, "--output", tmp_path / "out") == 2


def test_a_full_disk_under_stdout_is_one_error_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is Linux's")
    script = "import sys; from aerogel.cli import main; sys.argv = ['aerogel', 'models']; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_recovery_from_a_dense_model(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGEL_HOME", str(tmp_path / "home"))
    recovery = ("--task", "moods", "--data", data, "--teacher", "self", "--sparsity", 0.8)
    tuning = ("--epochs", 10, "--learning-rate", 1e-3, "--batch-size", 8, "--max-length", 16)
    assert aerogel("finetune", "tiny-bert", *recovery, *tuning, "--output", tmp_path / "sparse") == 0
    assert "accuracy" in capsys.readouterr().err
    (teacher,) = (path for path in (tmp_path / "home" / "tuned").iterdir() if path.is_dir())
    trained = (teacher / "model.safetensors").stat().st_mtime_ns
    assert aerogel("evaluate", tmp_path / "sparse", "--tasks", "moods", "--data", data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["moods"]["accuracy"] > 0.9
    assert aerogel("inspect", tmp_path / "sparse", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sparsity"] == pytest.approx(0.8, abs=1e-4)
    assert "quantization_config" in json.loads((tmp_path / "sparse" / "config.json").read_text())

    # another pattern, the same cached teacher, saved dense
    monkeypatch.chdir(tmp_path)
    assert (
        aerogel("finetune", "tiny-bert", *recovery[:-2], "--pattern", "2:4", *tuning, "--no-pack", "--output", "half")
        == 0
    )
    assert (teacher / "model.safetensors").stat().st_mtime_ns == trained
    assert "quantization_config" not in json.loads((tmp_path / "half" / "config.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"data", "home", "sparse", "half"}


def test_training_for_int8(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ("--task", "moods", "--data", data)
    tuning = ("--epochs", 8, "--learning-rate", 1e-3, "--batch-size", 8, "--max-length", 16, "--values", "int8")
    pruning = ("--sparsity", 0.8, "--pattern", "block:1x4", "--score", "magnitude")
    for name, options in (("sparse", pruning), ("dense", ()), ("unpacked", ("--no-pack",))):
        assert aerogel("finetune", "tiny-bert", *task, *tuning, *options, "--output", tmp_path / name) == 0
        trained = float(re.findall(r"accuracy ([01]\.\d+)", capsys.readouterr().err)[-1])  # of the int8 model
        assert trained > 0.9
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config.get("quantization_config", {}).get("values") == (None if name == "unpacked" else "int8")
        assert aerogel("evaluate", tmp_path / name, "--tasks", "moods", "--data", data, "--json") == 0
        assert json.loads(capsys.readouterr().out)["moods"]["accuracy"] == pytest.approx(trained, abs=0.02)


def test_prune_finetune_inspect_evaluate(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pruned, tuned = tmp_path / "pruned", tmp_path / "tuned"
    assert aerogel("prune", "tiny-bert", "--sparsity", "0.5", "--no-pack", "--output", pruned) == 0
    assert "50.00%" in capsys.readouterr().err
    assert aerogel("prune", pruned, "--sparsity", "0.3", "--output", tmp_path / "still") == 0
    assert "50.00%" in capsys.readouterr().err  # as before
    tuning = ("--data", data, "--epochs", 10, "--learning-rate", 1e-3, "--batch-size", 8)
    assert aerogel("finetune", pruned, "--task", "moods", "--output", tuned, *tuning) == 0
    capsys.readouterr()
    assert aerogel("inspect", tuned, "--json", "--output", tmp_path / "look") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sparsity"] == pytest.approx(0.5, abs=1e-4)
    assert report["model_sparsity"] < report["sparsity"]
    assert {path.name for path in (tmp_path / "look").iterdir()} == {"weights.json", "distribution.svg", "layers.svg"}
    assert aerogel("evaluate", tuned, "--tasks", "moods", "--data", data, "--reference", tuned, "--json") == 0
    scores = json.loads(capsys.readouterr().out)["moods"]
    assert scores["accuracy"] > 0.9
    assert scores["agreement"] == 1
    assert aerogel("evaluate", tuned, "--tasks", "moods", "--data", data) == 0
    assert "accuracy" in capsys.readouterr().out
    file = write_tsv(tmp_path / "moods.tsv", sentences(30))  # a file without splits is scored whole
    assert aerogel("evaluate", tuned, "--tasks", file, "--json") == 0
    scores = json.loads(capsys.readouterr().out)["moods"]
    assert scores["examples"] == 30
    assert str(file) in scores["data"]


def test_own_data_with_its_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.csv"
    rows = [f'"{text}, indeed",{("poor", "good")[label]},7' for text, label in sentences(40)]
    file.write_text("\n".join(["what they wrote,verdict,length", *rows]))
    columns = ("--columns", "text=what they wrote,label=verdict")
    described = "columns: text = what they wrote, label = verdict; kind: sentence_classification"
    tuning = ("--epochs", 1, "--batch-size", 8, "--max-length", 16)
    tuning += ("--learning-rate", 1e-4)
    assert aerogel("finetune", "tiny-bert", "--task", file, *columns, *tuning, "--output", tmp_path / "tuned") == 0
    said = capsys.readouterr().err
    assert described in said
    following = shlex.split(said.splitlines()[-1])
    for name, value in (
        ("--pattern", "block:1x4"),
        ("--values", "int8"),
        ("--teacher", str(tmp_path / "tuned")),
        ("--learning-rate", "0.0001"),
        ("--max-length", "16"),
        columns,
    ):
        assert following[following.index(name) + 1] == value
    assert aerogel("evaluate", tmp_path / "tuned", "--tasks", file, *columns) == 0
    assert described in capsys.readouterr().err
    calibration = (
        "--method",
        "wanda",
        "--sparsity",
        0.5,
        "--calibration",
        f"language-modelling:{file}",
        "--samples",
        1,
    )
    columns = ("--columns", "text=what they wrote")
    assert aerogel("prune", "tiny-bert", *calibration, *columns, "--output", tmp_path / "pruned") == 0
    assert "columns: text = what they wrote; kind: language_modelling" in capsys.readouterr().err


def test_pack_and_unpack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, packed, unpacked = tmp_path / "dense", tmp_path / "packed", tmp_path / "unpacked"
    for output, flags in ((dense, ["--no-pack"]), (packed, [])):
        assert aerogel("prune", "tiny-gpt2", "--sparsity", "0.9", "--output", output, *flags) == 0
        assert re.search(
            r"(?s)by magnitude: .* 90.00% of .*--method best --calibration .*finetune", capsys.readouterr().err
        )
    weights = {folder: (folder / "model.safetensors").stat().st_size for folder in (dense, packed)}
    assert weights[packed] < 0.65 * weights[dense]  # half of this model is embeddings
    reports = []
    for folder in (dense, packed):
        assert aerogel("inspect", folder, "--json") == 0
        reports.append(json.loads(capsys.readouterr().out) | {"model": ""})
    assert [report.pop("packed") for report in reports] == [{}, {"float16": 16}]  # as the model's own files
    assert reports[0] == reports[1]
    limits = ("--tasks", "python-reference", "--limit", 2, "--json")
    assert aerogel("evaluate", packed, *limits, "--reference", dense) == 0
    scores = json.loads(capsys.readouterr().out)["python-reference"]
    assert scores["agreement"] > 0.99
    assert aerogel("unpack", packed, "--output", unpacked) == 0
    assert {path.name for path in unpacked.iterdir()} == {path.name for path in dense.iterdir()}
    for path in dense.iterdir():
        assert (unpacked / path.name).read_bytes() == path.read_bytes(), path.name


def test_int8_values_from_prune_to_unpack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = floats, integers, unpacked = [tmp_path / name for name in ("floats", "integers", "unpacked")]
    pruning = ("prune", "tiny-bert", "--sparsity", "0.8", "--pattern", "block:1x4", "--output")
    assert aerogel(*pruning, floats) == 0
    assert aerogel(*pruning, integers, "--values", "int8") == 0
    assert "80.00% of" in capsys.readouterr().err
    assert json.loads((integers / "config.json").read_text())["quantization_config"]["values"] == "int8"
    sizes = {folder: (folder / "model.safetensors").stat().st_size for folder in (floats, integers)}
    assert sizes[integers] < sizes[floats]
    assert aerogel("unpack", integers, "--output", unpacked) == 0
    assert "int8" in capsys.readouterr().err
    assert "quantization_config" not in json.loads((unpacked / "config.json").read_text())
    for folder in folders:
        assert aerogel("inspect", folder, "--json") == 0
        # integers near 0 become 0
        assert json.loads(capsys.readouterr().out)["sparsity"] == pytest.approx(0.8, abs=0.01)
    text = tmp_path / "story.txt"
    text.write_text("".join(f"On day {day} the ship sailed on and the crew sang of home.\n" for day in range(300)))
    assert aerogel("inspect", integers) == 0
    assert ["int8", "24"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert aerogel("evaluate", integers, "--tasks", text, "--limit", 2, "--reference", floats) == 0
    said = capsys.readouterr().err
    assert re.search(f"{integers}.* 24 .*int8", said)
    assert re.search(f"{floats}.* 24 .*float32", said)
    compare = ("--tasks", text, "--limit", 4, "--json", "--reference")
    for other in (floats, unpacked):
        assert aerogel("evaluate", integers, *compare, other) == 0
        scores = json.loads(capsys.readouterr().out)["story"]
        assert scores["packed"] == {"int8": 24}
        assert scores["agreement"] > 0.9
        assert 0 <= scores["kl"] < 0.1
    calibrated = tmp_path / "calibrated"
    assert aerogel(*pruning, calibrated, "--values", "int8", "--calibration", text, "--samples", 8) == 0
    assert (calibrated / "model.safetensors").read_bytes() != (integers / "model.safetensors").read_bytes()
    assert aerogel(*pruning, tmp_path / "out", "--values", "int8", "--no-pack") == 2
    assert "--no-pack" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_int8_head_from_prune_and_finetune(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "story.txt"
    text.write_text("".join(f"On day {day} the ship sailed on and the crew sang of home.\n" for day in range(300)))
    integers, head = ("--values", "int8"), ("--head-values", "int8")
    pruning = ("prune", "tiny-gpt2", "--sparsity", "0.5", *integers)
    tuning = ("finetune", "tiny-gpt2", "--task", text, "--epochs", 0.1, "--max-length", 16, *integers)
    layers = {}
    for name, command in (("pruned", (*pruning, *head)), ("tuned", (*tuning, *head)), ("float", pruning)):
        assert aerogel(*command, "--output", tmp_path / name) == 0
        config = json.loads((tmp_path / name / "config.json").read_text())["quantization_config"]
        assert config.get("head_values") == (None if name == "float" else "int8")
        capsys.readouterr()
        assert aerogel("inspect", tmp_path / name, "--json") == 0
        layers[name] = json.loads(capsys.readouterr().out)["packed"]["int8"]
    assert layers["pruned"] == layers["tuned"] == layers["float"] + 1
    compare = ("--tasks", text, "--limit", 4, "--json", "--reference", tmp_path / "float")
    assert aerogel("evaluate", tmp_path / "pruned", *compare) == 0
    assert 0 < json.loads(capsys.readouterr().out)["story"]["kl"] < 0.01

    moods = ("finetune", "tiny-bert", "--task", "moods", "--data", data)
    for command, name in (
        ((*pruning[:-2], *head), "--values"),
        ((*pruning[:-1], "bfloat16", *head), "bfloat16"),
        ((*tuning[:-2], *head), "--values"),
        ((*tuning, *head, "--no-pack"), "--no-pack"),
        ((*moods, *integers, *head), "moods.*classification"),
    ):
        assert aerogel(*command, "--output", tmp_path / "refused") > 0
        assert re.search(name, capsys.readouterr().err)
        assert not (tmp_path / "refused").exists()


def test_a_packed_model_can_not_be_changed(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "packed"
    assert aerogel("prune", "tiny-bert", "--sparsity", "0.9", "--output", packed) == 0
    capsys.readouterr()
    for command in (("finetune", packed, "--task", "moods", "--data", data), ("prune", packed, "--sparsity", "0.95")):
        assert aerogel(*command, "--output", tmp_path / "out") == 1
        *notes, error = capsys.readouterr().err.splitlines()
        assert "aerogel unpack" in error
        assert len(notes) == (command[0] == "finetune")  # how the data is read
    assert aerogel("unpack", "tiny-bert", "--output", tmp_path / "out") == 1
    assert "tiny-bert" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_each_architecture_has_its_own_perplexity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "story.txt"
    text.write_text("".join(f"On day {day} the ship sailed on and the crew sang of home.\n" for day in range(300)))
    names = {"tiny-gpt2": "perplexity", "tiny-bert": "masked_lm_perplexity", "tiny-bart": "denoising_perplexity"}
    for model, name in names.items():
        assert aerogel("evaluate", model, "--tasks", text, "--limit", 4, "--json") == 0
        assert next(iter(json.loads(capsys.readouterr().out)["story"])) == name


@pytest.fixture
def story(tmp_path: Path) -> Path:
    text = tmp_path / "story.txt"
    text.write_text("".join(f"On day {day} the ship sailed on and the crew sang of home.\n" for day in range(600)))
    return text


def test_calibrated_pruning_and_comparison(tmp_path: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--method", "best", "--sparsity", 0.6, "--calibration", story, "--samples", 8)
    assert aerogel("prune", "tiny-gpt2", *options, "--swap", "--reconstruct", 1, "--output", tmp_path / "pruned") == 0
    said = capsys.readouterr().err
    assert "pruned by best: " in said
    assert "60.00%" in said
    assert "--method" not in said
    compare = ("--tasks", story, "--limit", 4, "--reference", "tiny-gpt2")
    assert aerogel("evaluate", tmp_path / "pruned", *compare, "--json") == 0
    scores = json.loads(capsys.readouterr().out)["story"]
    assert scores["kl_low"] <= scores["kl"] <= scores["kl_high"]
    assert scores["dense_perplexity"] > 0
    assert aerogel("evaluate", tmp_path / "pruned", *compare) == 0
    out = capsys.readouterr().out
    assert "95% interval" in out
    assert "kl_low" not in out


def test_sensitivity_as_json_and_chart(tmp_path: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look = tmp_path / "look"
    assert aerogel("inspect", "tiny-bart", "--sensitivity", story, "--method", "wanda", "--output", look, "--json") == 0
    sensitivity = json.loads(capsys.readouterr().out)["sensitivity"]
    assert next(name for name, _ in sensitivity["layers"]) == "model.encoder.layers.0"
    assert json.loads((look / "sensitivity.json").read_text()) == sensitivity
    assert "<svg" in (look / "sensitivity.svg").read_text()


def test_sensitivity_on_a_few_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few.csv"
    few.write_text("text,label\n" + "".join(f"The ship number {row} sailed.,{row % 2}\n" for row in range(40)))
    assert aerogel("inspect", "tiny-bert", "--sensitivity", few, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sensitivity"]["layers"]


def test_bench_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--batch-size", 2, "--sequence-length", 8, "--rounds", 3, "--training-steps", 1)
    assert aerogel("bench", "tiny-bert", "tiny-gpt2", *small, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in printed["measurements"]] == ["tiny-bert", "tiny-gpt2"]
    assert all(entry["median"] > 0 for entry in printed["measurements"])
    assert printed["environment"]["processor"]


def test_bench_measures_a_packed_folder_dense_and_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert aerogel("prune", "tiny-bert", "--sparsity", 0.9, "--output", "packed") == 0
    small = ("--batch-size", 2, "--sequence-length", 8, "--rounds", 3, "--training-steps", 1)
    capsys.readouterr()
    assert aerogel("bench", "packed", *small) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("packed")]
    assert len(lines) == 2
    assert lines[0].startswith("packed, run dense")
    assert lines[1].startswith("packed, compressed")


def test_report_from_the_store(study_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = study_folder / "report.html"
    page.unlink(missing_ok=True)
    assert aerogel("report", study_folder) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.stat().st_size > 10_000


BAD = [
    (["prune", "tiny-brt", "--sparsity", "0.5", "--output", "OUT"], "tiny-bert"),
    (["prune", "bert", "--sparsity", "0.5", "--output", "OUT"], "tiny-bert"),
    (["prune", "./nowhere", "--sparsity", "0.5", "--output", "OUT"], "./nowhere"),
    (["prune", "tiny-bert", "--sparsity", "1.0", "--output", "OUT"], "sparsity 1 "),
    (["prune", "tiny-bert", "--sparsity", "-0.1", "--output", "OUT"], "-0.1"),
    (["prune", "tiny-bert", "--sparsity", "nan", "--output", "OUT"], "nan"),
    (["prune", "tiny-bert", "--output", "OUT"], "sparsity"),
    (["prune", "tiny-bert", "--sparsity", "0.6", "--pattern", "2:4", "--output", "OUT"], "0.5"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--pattern", "block:5x1", "--output", "OUT"], "5"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--pattern", "4:2", "--output", "OUT"], "4:2"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--pattern", "dense", "--output", "OUT"], "unstructured"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--method", "magnitud", "--output", "OUT"], "magnitude"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--exclude", "nope*", "--output", "OUT"], "nope*"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--method", "wanda", "--output", "OUT"], "--calibration"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--swap", "--output", "OUT"], "--calibration"),
    (
        ["prune", "tiny-bert", "--sparsity", "0.5", "--method", "ria", "--calibration", "no.txt", "--output", "OUT"],
        "no.txt",
    ),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--device", "the gpu", "--output", "OUT"], "the gpu"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--device", "cuda:99", "--output", "OUT"], "cuda:99"),
    (["finetune", "tiny-bert", "--task", "movie-reviews", "--device", "cuda:99", "--output", "OUT"], "cuda:99"),
    (["evaluate", "tiny-gpt2", "--tasks", "python-reference", "--device", "cuda:99"], "cuda:99"),
    (["inspect", "tiny-bert", "--sensitivity", "python-reference", "--device", "cuda:99"], "cuda:99"),
    (["inspect", "tiny-bert", "--sensitivity", "python-reference", "--method", "wand"], "wanda"),
    (["finetune", "tiny-bert", "--task", "sst", "--output", "OUT"], "sst2"),
    (["finetune", "tiny-bert", "--task", "sst2", "--output", "OUT"], "movie-reviews"),
    (["finetune", "tiny-bert", "--task", "moods", "--data", "nowhere", "--output", "OUT"], "nowhere"),
    (["finetune", "tiny-bert", "--task", "nowhere.tsv", "--output", "OUT"], "nowhere.tsv"),
    (["finetune", "tiny-bert", "--task", "sentence_embed:x.tsv", "--output", "OUT"], "sentence_embedding"),
    (["finetune", "tiny-bert", "--task", "movie-reviews", "--score", "obs", "--output", "OUT"], "sparsity"),
    (["finetune", "tiny-bert", "--task", "movie-reviews", "--sparsity", "1", "--output", "OUT"], "sparsity 1 "),
    (["evaluate", "tiny-bert", "--tasks", "movie-reviews"], "fine-tune"),
    (["evaluate", "minilm", "--tasks", "python-reference"], "fine-tune"),
    (["evaluate", "tiny-bert", "--tasks", "movie-reviews", "--columns", "text"], "'text'"),
    (["evaluate", "tiny-bert", "--tasks", "movie-reviews", "--columns", "text=reviw"], "reviw"),
    (["evaluate", "tiny-bert", "--tasks", "sentence_regresion:movie-reviews"], "sentence_regression"),
    (["bench", "tiny-bert", "--sequence-length", "4000"], "128"),
    (["bench", "tiny-bert", "--beside", "openvino-int4"], "openvino-int8"),
    (["study", "startr"], "starter"),
    (["study", "--model", "tiny-brt", "--output", "OUT"], "tiny-bert"),
    (["study", "--sparsity", "1.5", "--output", "OUT"], "1.5"),
    (["report", "."], "study"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_invalid_input_is_one_error_sentence(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert aerogel(*arguments) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["prune", "tiny-bert"], ["bench"], ["prune", "--nope"], ["inspect", "tiny-bert", "--device", "cpu"]],
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    assert aerogel(*arguments) == 2


def test_an_existing_output_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert aerogel("prune", "tiny-bert", "--sparsity", "0.5", "--output", tmp_path) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_no_output(tmp_path: Path) -> None:
    """Limit files to 1 MB, which fails as a full disk does."""
    script = (
        "import resource, signal, sys\n"
        "from aerogel.cli.main import run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, "prune", "tiny-bert", "--sparsity", "0.5", "--output", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert aerogel("--debug", "inspect", "./nowhere") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["models", "models --json", "inspect tiny-gpt2"])
@pytest.mark.parametrize("reader", ["| true", ">&-"])
def test_a_closed_pipe_is_not_an_error(command: str, reader: str) -> None:
    script = f"set -o pipefail; {sys.executable} -c 'from aerogel.cli import main; main()' {command} {reader}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Error" not in done.stderr


def test_emoji_codes_in_names_are_printed_literally(capsys: pytest.CaptureFixture[str]) -> None:
    assert aerogel("inspect", ":key:") == 1
    assert ":key:" in capsys.readouterr().err


def test_a_note_says_that_a_model_has_too_few_zeros_to_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert aerogel("prune", "tiny-gpt2", "--sparsity", "0.2", "--output", str(tmp_path / "low")) == 0
    assert "40%" in capsys.readouterr().err


def test_help_does_not_import_torch() -> None:
    script = "import sys, aerogel; from aerogel.cli.main import run; run(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("False")


def test_all_public_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    import aerogel as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    assert aerogel("--version") == 0
    assert capsys.readouterr().out.strip().endswith(package.__version__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = package.nonsense
