"""Registers packed checkpoints with transformers, without importing it early."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

REGISTRIES = "transformers.quantizers.auto"  # the module with the registries
QUANTIZER = "aerogel.runtime.quantizer"  # the module that registers itself there


def register() -> None:
    """Registers packed checkpoints now if transformers has loaded its quantizers, otherwise as soon as it does."""
    if REGISTRIES in sys.modules:
        importlib.import_module(QUANTIZER)
    else:
        sys.meta_path.insert(0, _ImportHook())


class _ImportHook(MetaPathFinder):
    """Imports the quantizer after another finder's loader has run the module with the registries."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != REGISTRIES:
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
