"""The commands as a person types them: results, exit codes, one-sentence errors, nothing half-written."""

import json
import os
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
    """A data folder with one task of the user's own."""
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


def test_names_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a[red]b[/c]"
    shutil.copytree(str(ZOO["tiny-bert"].locate()), folder)
    assert aerogel("inspect", folder) == 0
    assert f"{folder}, by layer" in capsys.readouterr().out


def test_libraries_say_nothing_of_their_own() -> None:
    script = "import sys; from aerogel.cli import main; sys.argv = 'aerogel evaluate tiny-gpt2 --limit 1'.split() + "
    script += "['--tasks', 'python-reference']; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == "python-reference: starter task\n"


@pytest.mark.parametrize("command", ["prune", "finetune"])
def test_seeds_that_no_generator_takes_are_refused(command: str, tmp_path: Path) -> None:
    assert aerogel(command, "tiny-bert", "--seed", -1, "--output", tmp_path / "out") == 2
    assert aerogel(command, "tiny-bert", "--seed", 2**32, "--output", tmp_path / "out") == 2


def test_a_full_disk_under_the_output_is_an_error_in_one_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is Linux's")
    script = "import sys; from aerogel.cli import main; sys.argv = ['aerogel', 'models']; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_from_a_model_to_a_sparse_one_that_is_right(
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

    # another pattern, from the same teacher, saved dense
    monkeypatch.chdir(tmp_path)
    assert (
        aerogel("finetune", "tiny-bert", *recovery[:-2], "--pattern", "2:4", *tuning, "--no-pack", "--output", "half")
        == 0
    )
    assert (teacher / "model.safetensors").stat().st_mtime_ns == trained
    assert "quantization_config" not in json.loads((tmp_path / "half" / "config.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"data", "home", "sparse", "half"}


def test_from_pruning_to_scores(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pruned, tuned = tmp_path / "pruned", tmp_path / "tuned"
    assert aerogel("prune", "tiny-bert", "--sparsity", "0.5", "--no-pack", "--output", pruned) == 0
    assert "50.00%" in capsys.readouterr().err
    assert aerogel("prune", pruned, "--sparsity", "0.3", "--output", tmp_path / "still") == 0
    assert "50.00%" in capsys.readouterr().err  # which it was before
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
    file = write_tsv(tmp_path / "moods.tsv", sentences(30))  # a lone one is scored whole, and that is said
    assert aerogel("evaluate", tuned, "--tasks", file, "--json") == 0
    scores = json.loads(capsys.readouterr().out)["moods"]
    assert scores["examples"] == 30
    assert scores["data"].startswith(f"{file} (all of it")


def test_from_packing_to_unpacking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, packed, unpacked = tmp_path / "dense", tmp_path / "packed", tmp_path / "unpacked"
    for output, flags in ((dense, ["--no-pack"]), (packed, [])):
        assert aerogel("prune", "tiny-gpt2", "--sparsity", "0.9", "--output", output, *flags) == 0
        assert "90.00% of" in capsys.readouterr().err
    weights = {folder: (folder / "model.safetensors").stat().st_size for folder in (dense, packed)}
    assert weights[packed] < 0.65 * weights[dense]  # half of this model is embeddings
    reports = []
    for folder in (dense, packed):
        assert aerogel("inspect", folder, "--json") == 0
        reports.append(json.loads(capsys.readouterr().out) | {"model": ""})
    assert reports[0] == reports[1]
    limits = ("--tasks", "python-reference", "--limit", 2, "--json")
    assert aerogel("evaluate", packed, *limits, "--reference", dense) == 0
    scores = json.loads(capsys.readouterr().out)["python-reference"]
    assert scores["agreement"] > 0.99
    assert aerogel("unpack", packed, "--output", unpacked) == 0
    assert {path.name for path in unpacked.iterdir()} == {path.name for path in dense.iterdir()}
    for path in dense.iterdir():
        assert (unpacked / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_packed_model_is_unpacked_before_it_is_changed(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "packed"
    assert aerogel("prune", "tiny-bert", "--sparsity", "0.9", "--output", packed) == 0
    capsys.readouterr()
    for command in (("finetune", packed, "--task", "moods", "--data", data), ("prune", packed, "--sparsity", "0.95")):
        assert aerogel(*command, "--output", tmp_path / "out") == 1
        err = capsys.readouterr().err
        assert "unpack the model first (aerogel unpack DIR --output DIR" in err
        assert err.count("\n") == 1
    assert aerogel("unpack", "tiny-bert", "--output", tmp_path / "out") == 1
    assert "nothing to unpack" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_language_modelling_is_named_as_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_calibrated_pruning_and_what_it_did(tmp_path: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (
        "--method",
        "best",
        "--sparsity",
        0.6,
        "--calibration",
        story,
        "--samples",
        8,
        "--swap",
        "--reconstruct",
        1,
    )
    assert aerogel("prune", "tiny-gpt2", *asked, "--output", tmp_path / "pruned") == 0
    assert "60.00%" in capsys.readouterr().err
    compare = ("--tasks", story, "--limit", 4, "--reference", "tiny-gpt2")
    assert aerogel("evaluate", tmp_path / "pruned", *compare, "--json") == 0
    found = json.loads(capsys.readouterr().out)["story"]
    assert found["kl_low"] <= found["kl"] <= found["kl_high"]
    assert found["dense_perplexity"] > 0
    assert aerogel("evaluate", tmp_path / "pruned", *compare) == 0
    out = capsys.readouterr().out
    assert "95% interval" in out
    assert "kl_low" not in out


def test_sensitivity_is_printed_drawn_and_kept(tmp_path: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look = tmp_path / "look"
    assert aerogel("inspect", "tiny-bart", "--sensitivity", story, "--method", "wanda", "--output", look, "--json") == 0
    found = json.loads(capsys.readouterr().out)["sensitivity"]
    assert next(name for name, _ in found["layers"]) == "model.encoder.layers.0"
    assert json.loads((look / "sensitivity.json").read_text()) == found
    assert "<svg" in (look / "sensitivity.svg").read_text()


def test_bench_prints_numbers_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--batch-size", 2, "--sequence-length", 8, "--rounds", 3, "--training-steps", 1)
    assert aerogel("bench", "tiny-bert", "tiny-gpt2", *small, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found["measurements"]] == ["tiny-bert", "tiny-gpt2"]
    assert all(entry["median"] > 0 for entry in found["measurements"])
    assert found["environment"]["processor"]


def test_bench_of_a_packed_folder_shows_it_dense_and_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert aerogel("prune", "tiny-bert", "--sparsity", 0.9, "--output", "packed") == 0
    small = ("--batch-size", 2, "--sequence-length", 8, "--rounds", 3, "--training-steps", 1)
    capsys.readouterr()
    assert aerogel("bench", "packed", *small) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("packed")]
    assert len(lines) == 2
    assert lines[1].startswith("packed, compressed")


def test_report_is_written_again_from_the_store(study_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = study_folder / "report.html"
    page.unlink(missing_ok=True)
    assert aerogel("report", study_folder) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.stat().st_size > 10_000


BAD = [
    (["prune", "tiny-brt", "--sparsity", "0.5", "--output", "OUT"], "did you mean tiny-bert"),
    (["prune", "bert", "--sparsity", "0.5", "--output", "OUT"], "names that work offline: tiny-bert"),
    (["prune", "./nowhere", "--sparsity", "0.5", "--output", "OUT"], "no such folder"),
    (["prune", "tiny-bert", "--sparsity", "1.0", "--output", "OUT"], "sparsity 1 is outside [0, 1)"),
    (["prune", "tiny-bert", "--sparsity", "-0.1", "--output", "OUT"], "outside [0, 1)"),
    (["prune", "tiny-bert", "--sparsity", "nan", "--output", "OUT"], "outside [0, 1)"),
    (["prune", "tiny-bert", "--output", "OUT"], "needs a sparsity"),
    (["prune", "tiny-bert", "--sparsity", "0.6", "--pattern", "2:4", "--output", "OUT"], "fixes it at 0.5"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--pattern", "block:5x1", "--output", "OUT"], "does not divide"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--pattern", "4:2", "--output", "OUT"], "0 < N < M"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--pattern", "dense", "--output", "OUT"], "none of unstructured"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--method", "magnitud", "--output", "OUT"], "did you mean magnitude"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--exclude", "nope*", "--output", "OUT"], "matches no"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--method", "wanda", "--output", "OUT"], "by --calibration"),
    (["prune", "tiny-bert", "--sparsity", "0.5", "--swap", "--output", "OUT"], "by --calibration"),
    (
        ["prune", "tiny-bert", "--sparsity", "0.5", "--method", "ria", "--calibration", "no.txt", "--output", "OUT"],
        "no such file",
    ),
    (["inspect", "tiny-bert", "--sensitivity", "python-reference", "--method", "wand"], "did you mean wanda"),
    (["finetune", "tiny-bert", "--task", "sst", "--output", "OUT"], "did you mean sst2"),
    (["finetune", "tiny-bert", "--task", "sst2", "--output", "OUT"], "movie-reviews"),
    (["finetune", "tiny-bert", "--task", "moods", "--data", "nowhere", "--output", "OUT"], "no such data folder"),
    (["finetune", "tiny-bert", "--task", "nowhere.tsv", "--output", "OUT"], "no such file"),
    (["finetune", "tiny-bert", "--task", "movie-reviews", "--score", "obs", "--output", "OUT"], "needs a sparsity"),
    (["finetune", "tiny-bert", "--task", "movie-reviews", "--sparsity", "1", "--output", "OUT"], "outside [0, 1)"),
    (["evaluate", "tiny-bert", "--tasks", "movie-reviews"], "fine-tune"),
    (["evaluate", "minilm", "--tasks", "python-reference"], "fine-tune"),
    (["bench", "tiny-bert", "--sequence-length", "4000"], "128 positions"),
    (["study", "startr"], "did you mean starter"),
    (["study", "--model", "tiny-brt", "--output", "OUT"], "tiny-bert"),
    (["study", "--sparsity", "1.5", "--output", "OUT"], "sparsity 1.5 is outside"),
    (["report", "."], "not the output of a study"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert aerogel(*arguments) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["nonsense"], ["prune", "tiny-bert"], ["bench"], ["prune", "--nope"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert aerogel(*arguments) == 2


def test_an_output_that_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert aerogel("prune", "tiny-bert", "--sparsity", "0.5", "--output", tmp_path) == 1
    assert "already exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """Files may not grow past 1 MB in this process, which the system reports as it does a full disk."""
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


def test_a_traceback_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert aerogel("--debug", "inspect", "./nowhere") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["models", "models --json", "inspect tiny-gpt2"])
@pytest.mark.parametrize("reader", ["| true", ">&-"])
def test_who_reads_no_further_is_no_error(command: str, reader: str) -> None:
    script = f"set -o pipefail; {sys.executable} -c 'from aerogel.cli import main; main()' {command} {reader}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Error" not in done.stderr


def test_names_that_look_like_emoji_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert aerogel("inspect", ":key:") == 1
    assert ":key: is n" in capsys.readouterr().err


def test_too_few_zeros_to_pack_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert aerogel("prune", "tiny-gpt2", "--sparsity", "0.2", "--output", str(tmp_path / "low")) == 0
    assert "40% zeros" in capsys.readouterr().err


def test_help_and_the_facade_import_nothing_heavy() -> None:
    script = "import sys, aerogel; from aerogel.cli.main import run; run(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("False")


def test_every_name_of_the_facade_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    import aerogel as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    assert aerogel("--version") == 0
    assert capsys.readouterr().out.strip().endswith(package.__version__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = package.nonsense
