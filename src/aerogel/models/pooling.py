"""The embedding of a text: a model's last hidden states pooled, as sentence-transformers stores it in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import PreTrainedModel

from aerogel import files
from aerogel.errors import ModelError, excerpt, unknown_name
from aerogel.models.location import local_folder

MODULES, FOLDER, CONFIG = "modules.json", "1_Pooling", "config.json"
CLASSES = "sentence_transformers.models."


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask).sum(1) / mask.sum(1)


def _last(states: Tensor, mask: Tensor) -> Tensor:
    positions = torch.arange(states.shape[1], device=states.device) * mask[..., 0]
    return states[torch.arange(len(states), device=states.device), positions.argmax(1)]


MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda states, mask: states[torch.arange(len(states)), mask[..., 0].argmax(1)],
    "mean": _mean,
    "max": lambda states, mask: states.masked_fill(mask == 0, -torch.inf).amax(1),
    "mean_sqrt_len_tokens": lambda states, mask: (states * mask).sum(1) / mask.sum(1).sqrt(),
    "lasttoken": _last,
}
"""How the hidden states (texts, tokens, width) become embeddings (texts, width), by sentence-transformers' names.

The mask (texts, tokens, 1) is 1 where a token is not padding.
"""
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""The modes in the older format of sentence-transformers, which newer versions read as well."""


@dataclass(frozen=True)
class Pooling:
    """How a model's hidden states become an embedding.

    Attributes:
        mode: a key of `MODES`.
        normalize: whether the embedding has length 1.

    >>> states, mask = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
    >>> Pooling("mean")(states, mask), Pooling("max", normalize=True)(states, mask)
    (tensor([[3., 4.]]), tensor([[0.3511, 0.9363]]))
    """

    mode: str = "mean"
    normalize: bool = False

    def __call__(self, states: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (texts, width) of hidden states (texts, tokens, width) with a mask (texts, tokens), in float32."""
        pooled = MODES[self.mode](states.float(), mask[..., None].float())
        return torch.nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled

    @classmethod
    def read(cls, folder: Path) -> Pooling:
        """That of a folder of sentence-transformers; of another model's folder the default, the mean of the tokens.

        Raises `ModelError` for a damaged file, and for modules other than a transformer, a pooling and a normalization.
        """
        if not (folder / MODULES).is_file():
            return cls()
        modules = _read_json(folder / MODULES)
        if not isinstance(modules, list) or not all(isinstance(module, Mapping) for module in modules):
            raise ModelError(f"{folder / MODULES}: expected a list of modules")
        types = [str(module.get("type")).rpartition(".")[2] for module in modules]
        if types not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise ModelError(
                f"{folder / MODULES}: expected the modules Transformer, Pooling and optionally Normalize, found "
                f"{', '.join(types)}; embeddings of other modules can't be trained or scored"
            )
        return cls(_read_mode(folder / str(modules[1].get("path", FOLDER)) / CONFIG), "Normalize" in types)

    def write(self, folder: Path, width: int) -> None:
        """Writes it to a model's folder, so that sentence-transformers pools alike. `width` is that of the states."""
        paths = {"Transformer": "", "Pooling": FOLDER} | ({"Normalize": "2_Normalize"} if self.normalize else {})
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"{CLASSES}{kind}"}
            for number, (kind, path) in enumerate(paths.items())
        ]
        flags = {flag: mode == self.mode for mode, flag in FLAGS.items()}
        (folder / FOLDER).mkdir(exist_ok=True)
        files.write_text(folder / MODULES, json.dumps(modules, indent=2) + "\n")
        settings = {"word_embedding_dimension": width, **flags}
        files.write_text(folder / FOLDER / CONFIG, json.dumps(settings, indent=2) + "\n")


def pooling_of(model: PreTrainedModel) -> Pooling:
    """That of the folder or hub id that a model was loaded from; the model keeps it, also in copies.

    Raises `ModelError` as `Pooling.read`.
    """
    pooling = used_pooling(model)
    if pooling is None:
        folder = _modules_folder(model.name_or_path)
        pooling = Pooling.read(folder) if folder else Pooling()
        model.sentence_pooling = pooling
    return pooling


def used_pooling(model: PreTrainedModel) -> Pooling | None:
    """The pooling of a model that has served as an embedding model, which a new checkpoint of it has to state."""
    pooling = getattr(model, "sentence_pooling", None)
    return pooling if isinstance(pooling, Pooling) else None


def _modules_folder(name: str) -> Path | None:
    folder = local_folder(name) if name else None
    if folder is None or os.path.isdir(name):
        return folder
    # transformers has fetched the model alone; offline this is the folder in the hub's cache
    return Path(snapshot_download(name, allow_patterns=[MODULES, f"*/{CONFIG}"]))


def _read_mode(path: Path) -> str:
    settings = _read_json(path)
    if not isinstance(settings, Mapping):
        raise ModelError(f"{path}: expected an object, found {excerpt(settings)}")
    names = {flag: mode for mode, flag in FLAGS.items()}
    stored = settings.get("pooling_mode")
    if stored is None:
        flags = [key for key, used in settings.items() if key.startswith("pooling_mode_") and used is True]
        modes = [names.get(flag, flag) for flag in flags]
    else:
        modes = [str(mode) for mode in (stored if isinstance(stored, list) else [stored])]
    if len(modes) != 1:
        raise ModelError(f"{path}: expected one pooling mode, found {', '.join(modes) or 'none'}")
    if modes[0] not in MODES:
        raise ModelError(f"{path}: {unknown_name('pooling mode', modes[0], MODES)}")
    return modes[0]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: can't be read: {error}") from error
