"""The example of a server: threads that share a packed model, and forked workers with a preloaded one."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

import aerogel as ag
from aerogel.models import load, save
from aerogel.models.pooling import Pooling

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve.py"
TEXTS = [["A short text."], ["Another one, which is longer than the first.", "Two"], ["Three"], ["four", "five", "6"]]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    model, tokenizer = load("tiny-bert")
    ag.prune(model, sparsity=0.9)
    save(ag.compress(model), tokenizer, tmp_path / "packed")
    return str(tmp_path / "packed")


def example(folder: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MODEL", folder)
    monkeypatch.setenv("CONCURRENT", "4")
    spec = importlib.util.spec_from_file_location("serve", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "serve", module)  # where pydantic looks up its annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the test client
def test_threads_share_a_model(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = example(folder, monkeypatch)
    expected = [serve.embed(texts) for texts in TEXTS]
    assert torch.tensor(expected[1]).norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    with TestClient(serve.app) as client, ThreadPoolExecutor(8) as threads:

        def ask(texts: list[str]) -> Any:
            return client.post("/embed", json={"texts": texts}).json()

        for found, wanted in zip(threads.map(ask, TEXTS * 10), expected * 10, strict=True):
            assert torch.allclose(torch.tensor(found), torch.tensor(wanted), atol=1e-6)
        assert client.post("/embed", json={"texts": []}).status_code == 422


def test_texts_are_pooled_as_the_folder_says(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    means = torch.tensor(example(folder, monkeypatch).embed(["A short text."]))
    Pooling("cls").write(Path(folder), 128)
    serve = example(folder, monkeypatch)
    found = torch.tensor(serve.embed(["A short text."]))
    with torch.inference_mode():
        states = serve.model(**serve.tokenizer("A short text.", return_tensors="pt")).last_hidden_state
    assert torch.allclose(found, torch.nn.functional.normalize(states[:, 0], dim=1), atol=1e-5)
    assert not torch.allclose(found, means, atol=1e-2)


def test_forked_workers_share_a_preloaded_model(folder: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "serve:app", "--preload", "--workers", "2", "--bind"]
    command += [f"127.0.0.1:{port}", "--worker-class", "uvicorn_worker.UvicornWorker"]
    environment = os.environ | {"MODEL": folder, "OMP_NUM_THREADS": "2"}
    server = subprocess.Popen(command, cwd=EXAMPLE.parent, env=environment, start_new_session=True)
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/embed",
            json.dumps({"texts": TEXTS[1]}).encode(),
            {"Content-Type": "application/json"},
        )
        for _ in range(600):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert len(json.load(answer)) == 2
                break
            except urllib.error.URLError:  # not yet started
                assert server.poll() is None
                time.sleep(0.2)
        else:
            pytest.fail("the server did not answer")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
