"""What a package holds one of in each file, found by itself: pruning methods, scores."""

from __future__ import annotations

import importlib
import pkgutil
from importlib import resources
from typing import Any


def names(package: str) -> list[str]:
    """The names of the entries, which their modules have too, without importing any."""
    folder = resources.files("aerogel").joinpath(*package.split(".")[1:])
    return sorted(entry.name for entry in pkgutil.iter_modules([str(folder)]))


def entries(package: str, attribute: str) -> dict[str, Any]:
    """By name, the `attribute` of every module in the package."""
    path = importlib.import_module(package).__path__
    modules = (importlib.import_module(f"{package}.{entry.name}") for entry in pkgutil.iter_modules(path))
    found = (getattr(module, attribute) for module in modules)
    return {entry.name: entry for entry in found}
