"""A packed model that was loaded before a fork runs in the child, as servers with a preloaded model need."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aerogel as ag
from aerogel.models import load, save

SCRIPT = """
import os, signal, sys
import torch
import aerogel
from transformers import AutoModel

torch.set_num_threads(2)
model = AutoModel.from_pretrained(sys.argv[1])
tokens = torch.arange(5, 517).view(8, 64)
child = os.fork()
signal.alarm(100)  # a child that waits forever ends with the test
with torch.inference_mode():
    result = model(input_ids=tokens)[0]  # in the parent too, after the fork
if child == 0:
    torch.save(result, sys.argv[2])
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(torch.load(sys.argv[2]), result)
"""


@pytest.mark.parametrize(("name", "values"), [("tiny-bert", None), ("tiny-gpt2", "int8")])
def test_a_model_loaded_before_a_fork_runs_in_the_child(name: str, values: Any, tmp_path: Path) -> None:
    model, _ = load(name)
    ag.prune(model, sparsity=0.9)
    save(ag.compress(model, values), None, tmp_path / "packed")
    arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / "packed"), str(tmp_path / "result")]
    subprocess.run(arguments, check=True, timeout=120)
