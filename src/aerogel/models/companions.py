"""The other files of a checkpoint folder, which a new checkpoint of the model copies."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

LARGEST_FILE, LARGEST_SUM, MOST_FILES = 256 * 2**20, 2**30, 2000  # bytes, bytes, files
WRITTEN_ANEW = ("config.json", "README.md")
WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.ckpt.*", "*.h5", "*.msgpack", "*.gguf", "*.ot"),
    *("*.onnx", "*.onnx_data", "*.onnx.data", "*.tflite", "*.mlmodel", "openvino_*.xml", "*.index.json"),
    "adapter_config.json",
)
TRAINING = (
    *("checkpoint-*", "global_step*", "runs", "wandb", "mlruns", "__pycache__", "*.checkpoints"),
    *("trainer_state.json", "events.out.*", "optimizer*", "scheduler*", "rng_state*", "zero_to_fp32.py", "latest"),
)


@dataclass(frozen=True)
class Companions:
    """Paths within a checkpoint folder: the files to copy, and those that are left out.

    Left out are unreadable files, files above `LARGEST_FILE`, all beyond `LARGEST_SUM` or `MOST_FILES`, and symbolic
    links that lead out of the folder. Weights, training state and hidden files are in neither list.
    """

    files: tuple[PurePath, ...]
    left_out: tuple[PurePath, ...]

    def copy(self, source: Path, target: Path) -> None:
        for file in self.files:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, target / file)


def companions(source: Path) -> Companions:
    """The companions of the model in the folder `source`."""
    source = source.resolve()
    files: list[PurePath] = []
    left_out: list[PurePath] = []
    total = 0
    for path in _candidates(source):
        file = path.relative_to(source)
        if not path.is_symlink() and not path.is_file():
            continue  # a pipe, a socket
        size = path.stat().st_size if is_inside(path, source) else LARGEST_FILE + 1
        if size > LARGEST_FILE or total + size > LARGEST_SUM:
            left_out.append(file)
        elif len(files) == MOST_FILES:
            left_out.append(file)
            break
        else:
            files.append(file)
            total += size
    return Companions(tuple(files), tuple(left_out))


def _candidates(source: Path) -> Iterator[Path]:
    modules = _module_folders(source)
    for path, folders, names in os.walk(source):
        folder = Path(path)
        linked = [name for name in folders if (folder / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in linked and not _is_skipped(name))
        folders[:] = [name for name in folders if not _is_model(folder / name)]
        within = folder.relative_to(source)
        for name in sorted(names + linked):
            is_weight = any(fnmatchcase(name, pattern) for pattern in WEIGHTS) and within not in modules
            if not _is_skipped(name) and not is_weight and (folder != source or name not in WRITTEN_ANEW):
                yield folder / name


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or any(fnmatchcase(name, pattern) for pattern in TRAINING)


def _is_model(folder: Path) -> bool:
    """Whether the folder is another model, for instance one pruned from this one."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return isinstance(config, dict) and "model_type" in config
    return False


def _module_folders(source: Path) -> set[PurePath]:
    """Folders of the modules that sentence-transformers runs after the model. Their weights are copied."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        modules = json.loads((source / "modules.json").read_text(encoding="utf-8"))
        if isinstance(modules, list):
            paths = [module.get("path") for module in modules if isinstance(module, dict)]
            return {PurePath(path) for path in paths if isinstance(path, str)} - {PurePath()}
    return set()


def is_inside(path: Path, source: Path) -> bool:
    """Whether a path resolves to a file in the folder, or in the hub's cache that contains the folder."""
    file = Path(os.path.realpath(path))  # keeps a loop of links
    blobs = source.parent.parent / "blobs"
    inside = file.is_relative_to(source) or (source.parent.name == "snapshots" and file.is_relative_to(blobs))
    with contextlib.suppress(OSError):
        return inside and file.is_file() and os.access(file, os.R_OK)
    return False
