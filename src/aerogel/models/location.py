"""Finds a model by name: a zoo name, a local folder or a Hugging Face hub id."""

import contextlib
import os
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from aerogel.errors import ModelError, expect, nearest
from aerogel.hub import look_up
from aerogel.models.zoo import ZOO, check_path, offline_names


def located(name: str | os.PathLike[str]) -> tuple[str, bool]:
    """The folder or hub id of a model, and whether only local files may be used."""
    expect(name, str | os.PathLike, ModelError, "the name or folder of a model")
    name = os.fspath(name)
    if name in ZOO and ZOO[name].offline:
        return ZOO[name].locate(), True
    if os.path.isdir(name):  # pathlib raises for an invalid path
        return name, True
    if os.path.exists(name):
        raise ModelError(f"{name} is a file: expected a folder with config.json and weights, or the name of a model")
    hub_id = ZOO[name].locate() if name in ZOO else name
    check_path(name)
    try:
        look_up(hub_id, "model")
    except (LookupError, ConnectionError) as error:
        if not _hub_cache(hub_id):
            raise ModelError(_not_found(name, hub_id, error)) from error
        return hub_id, True
    return hub_id, False


def _hub_cache(hub_id: str) -> Path | None:
    """The model's folder in the hub's cache."""
    with contextlib.suppress(ValueError):  # not a valid repository name
        cached = try_to_load_from_cache(hub_id, "config.json")
        return Path(cached).parent if isinstance(cached, str) else None
    return None


def _not_found(name: str, hub_id: str, error: Exception) -> str:
    """The message for a model that was not found: the reason, similar names, and the names that need no hub."""
    offline = (
        f"names that need no hub: {', '.join(offline_names())} (those that are not tiny are downloaded with pip once)"
    )
    near = "" if name in ZOO else nearest(name, ZOO)
    hint = f", {near}" if near else ";"
    if isinstance(error, LookupError):
        return f"{name} is neither a zoo name nor a local folder, and {error}{hint} {offline}"
    model = name if name == hub_id else f"{name} ({hub_id})"
    reason = f"the Hugging Face hub could not be reached ({error})"
    return f"model {model} is not a local folder, and {reason}{hint} {offline}"


def local_folder(name: str | os.PathLike[str]) -> Path | None:
    """The local folder of a model, for a hub id the one in the hub's cache; `None` if there is none."""
    name = os.fspath(name)
    if os.path.isdir(name) or (name in ZOO and ZOO[name].offline):
        return Path(located(name)[0])
    return _hub_cache(ZOO[name].locate() if name in ZOO else name)


def base_name(name: str | os.PathLike[str]) -> str:
    """The name of a model in a model card: its name or hub id, or the name of its folder."""
    name = os.fspath(name)
    if name in ZOO:
        return name if ZOO[name].offline else ZOO[name].locate()
    return Path(name).resolve().name if os.path.isdir(name) else name


def folder_files(name: str) -> tuple[tuple[str, int, int], ...]:
    """The files of a model's folder by name, size and time, to tell when another model has taken its place.

    Empty for a name that is not a folder's.
    """
    if (name in ZOO and ZOO[name].offline) or not os.path.isdir(name):  # pathlib raises for some names
        return ()
    paths = sorted(path for path in Path(name).iterdir() if path.is_file())
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
