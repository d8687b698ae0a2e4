"""Marks checkpoints that transformers loads with aerogel only: packed ones, and those whose layers differ in size.

The mark is the `quantization_config` in config.json. This module is imported while transformers is.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from aerogel import files

METHOD, VERSION = "aerogel", 3
# transformers quotes this field of config.json, and no other, in its error for a weight file that is not found
HINT_FIELD = "transformers_weights"
HINT = "the layers are packed or of different sizes, so `import aerogel` (pip install aerogel) before loading the model"


class Mark(dict[str, Any]):
    """The content of the mark; its method is an attribute too, which OpenVINO reads from any `quantization_config`."""

    quant_method = METHOD


def marked_config(model: Any) -> dict[str, Any]:
    """The `quantization_config` of a model that aerogel has marked; empty for others."""
    marked = getattr(model.config, "quantization_config", None) or {}
    content = marked if isinstance(marked, dict) else marked.to_dict()
    return content if content.get("quant_method") == METHOD else {}


def mark_config(model: Any, **fields: Any) -> None:
    """Marks a model that is not packed: it is an ordinary model in memory, and `save_pretrained` writes the mark."""
    model.config.quantization_config = Mark(quant_method=METHOD, version=VERSION, packed=False, **fields)
    model.save_pretrained = partial(save_pretrained, model)  # which copies and pickles with the model


def save_pretrained(model: Any, save_directory: str | os.PathLike[str], **options: Any) -> None:
    """As in transformers, with a hint in config.json for users who load the checkpoint without aerogel."""
    type(model).save_pretrained(model, save_directory, **options)
    add_hint(save_directory)


def add_hint(folder: str | os.PathLike[str]) -> None:
    """Adds the hint to the config.json in a folder, if there is one."""
    path = Path(folder) / "config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8")) | {HINT_FIELD: HINT}
        files.write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
