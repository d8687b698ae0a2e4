"""Models from the Hugging Face hub, tested with a local server of the same protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aerogel.models import ZOO

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub with one model, `someone/tiny`, and status 404 for everything else."""
    folder = Path(ZOO["tiny-gpt2"].locate())
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        path = self.path.split("?")[0]
        names = sorted(file.name for file in self.folder.iterdir())
        info = {"id": "someone/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        if path.startswith("/api/models/someone/tiny/tree/"):
            tree = [
                {"type": "file", "path": name, "size": (self.folder / name).stat().st_size, "oid": ""} for name in names
            ]
            self._send(json.dumps(tree).encode(), with_body)
        elif path.startswith("/api/models/someone/tiny"):
            self._send(json.dumps(info).encode(), with_body)
        elif path.startswith("/someone/tiny/resolve/") and path.rsplit("/", 1)[1] in names:
            content = (self.folder / path.rsplit("/", 1)[1]).read_bytes()
            self._send(content, with_body, ETag=f'"{hashlib.sha1(content).hexdigest()}"')
        else:
            code = "EntryNotFound" if path.startswith("/someone/tiny/") else "RepoNotFound"
            self._send(b"", with_body, 404, **{"X-Error-Code": code})

    def _send(self, content: bytes, with_body: bool, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None: ...


def aerogel(*arguments: str, home: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    surroundings |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "*"}
    command = [sys.executable, "-c", "from aerogel.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=120)


def test_a_hub_model_is_downloaded_once_and_then_works_offline(hub: str, tmp_path: Path) -> None:
    first = aerogel("inspect", "someone/tiny", "--json", home=tmp_path, endpoint=hub)
    assert first.returncode == 0, first.stderr
    again = aerogel("inspect", "someone/tiny", "--json", home=tmp_path, endpoint="http://127.0.0.1:9")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)


def test_a_model_that_the_hub_does_not_have(hub: str, tmp_path: Path) -> None:
    done = aerogel("inspect", "someone/else", home=tmp_path, endpoint=hub)
    assert done.returncode == 1
    assert "the hub has no model 'someone/else'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unreachable_hub_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    done = aerogel("inspect", "bert", home=tmp_path, endpoint="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "bert (bert-base-uncased)" in done.stderr
    assert "could not be reached" in done.stderr
    assert all(name in done.stderr for name, entry in ZOO.items() if entry.offline)
    assert done.stderr.count("\n") == 1
