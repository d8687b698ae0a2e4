"""lm-evaluation-harness with packed models: the same scores as of the dense pruned model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aerogel as ag
from aerogel.cli.main import run
from aerogel.errors import DataError, ModelError
from aerogel.evaluation.harness import evaluate_harness
from aerogel.models import load, save

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness's own
TASK = """
task: endings
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {data}}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{start}}}}"
doc_to_target: right
doc_to_choice: ends
metric_list:
  - metric: acc
"""
LAUNCH = "import aerogel; from lm_eval.__main__ import cli_evaluate; cli_evaluate()"


@pytest.fixture
def task(tmp_path: Path) -> str:
    rows = [
        {"start": f"The number after {n} is", "ends": [str(n), str(n + 1), "green"], "right": n % 3} for n in range(12)
    ]
    (tmp_path / "endings.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "endings.yaml").write_text(TASK.format(data=tmp_path / "endings.jsonl"))
    return str(tmp_path / "endings.yaml")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    """A dense pruned model and the same packed."""
    model, tokenizer = load("tiny-gpt2")
    ag.prune(model, sparsity=0.6)
    save(model, tokenizer, tmp_path / "dense")
    save(ag.compress(model), tokenizer, tmp_path / "packed")
    return str(tmp_path / "dense"), str(tmp_path / "packed")


def test_a_packed_folder_scores_as_the_dense_model(
    folders: tuple[str, str], task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores: list[Any] = []
    for folder in folders:
        assert run(["evaluate", folder, "--harness", task, "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1]
    (score,) = scores[0]
    assert (score["task"], score["metric"]) == ("endings", "acc")
    assert 0 < score["value"] < 1
    assert 0 < score["stderr"] < 0.5
    assert run(["evaluate", folders[1], "--harness", task, "--limit", "6"]) == 0
    assert "endings" in capsys.readouterr().out
    options = ["--model", "hf", "--model_args", f"pretrained={folders[1]}", "--tasks", task, "--device", "cpu"]
    subprocess.run([sys.executable, "-c", LAUNCH, *options, "--output_path", str(tmp_path / "out")], check=True)
    (results,) = (tmp_path / "out").rglob("results*.json")
    launched = json.loads(results.read_text())["results"]["endings"]["acc,none"]
    assert launched == pytest.approx(score["value"])


def test_what_the_harness_cannot_score_is_refused(task: str) -> None:
    with pytest.raises(ModelError, match="BertForMaskedLM"):
        evaluate_harness(*load("tiny-bert"), [task])
    with pytest.raises(DataError, match="no-such-task"):
        evaluate_harness(*load("tiny-gpt2"), ["no-such-task"])


@pytest.mark.parametrize(
    "options",
    [[], ["--tasks", "movie-reviews", "--harness", "x"], ["--harness", "x", "--reference", "tiny-gpt2"]],
    ids=len,
)
def test_options_that_do_not_fit_are_refused(options: list[str]) -> None:
    assert run(["evaluate", "tiny-gpt2", *options]) == 2
