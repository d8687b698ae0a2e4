"""What a package holds one of in each file, found by itself: pruning methods, scores."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def entries(package: str, attribute: str) -> dict[str, Any]:
    """By name, the `attribute` of every module in the package."""
    path = importlib.import_module(package).__path__
    modules = (importlib.import_module(f"{package}.{entry.name}") for entry in pkgutil.iter_modules(path))
    found = (getattr(module, attribute) for module in modules)
    return {entry.name: entry for entry in found}
