"""Makes packed checkpoints known to transformers, without importing it before anyone needs it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

AWAITED = "transformers.quantizers.auto"  # the module that has the registries
QUANTIZER = "aerogel.runtime.quantizer"  # the module that enters itself in them


def register() -> None:
    """Registers packed checkpoints now if transformers has its quantizers loaded, and else as soon as it has."""
    if AWAITED in sys.modules:
        importlib.import_module(QUANTIZER)
    else:
        sys.meta_path.insert(0, _Waiting())


class _Waiting(MetaPathFinder):
    """Finds nothing itself: it looks on while another finder's loader runs the awaited module, and adds a step."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != AWAITED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            importlib.import_module(QUANTIZER)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
