"""Registries without a table: every module of a package defines one entry (a pruning method, a kind of task)."""

import importlib
import pkgutil
from importlib import resources
from typing import Any


def names(package: str) -> list[str]:
    """The names of the entries, which are those of their modules. Imports none of them."""
    folder = resources.files("aerogel").joinpath(*package.split(".")[1:])
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


def entries(package: str, attribute: str) -> dict[str, Any]:
    """The `attribute` of every module in the package, by the entry's `name`."""
    path = importlib.import_module(package).__path__
    modules = (importlib.import_module(f"{package}.{module.name}") for module in pkgutil.iter_modules(path))
    return {entry.name: entry for entry in (getattr(module, attribute) for module in modules)}
