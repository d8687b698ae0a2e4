"""Registers packed checkpoints with transformers and packed layers with peft, without importing either early."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

REGISTRIES = {  # module of another library -> module here that registers itself there
    "transformers.quantizers.auto": "aerogel.runtime.quantizer",
    "peft.tuners.lora.model": "aerogel.runtime.peft_private",
}


def register() -> None:
    """Imports the modules that register themselves: now if the library is loaded, otherwise as soon as it is."""
    for registry, module in REGISTRIES.items():
        if registry in sys.modules:
            importlib.import_module(module)
        else:
            sys.meta_path.insert(0, _ImportHook(registry, module))


class _ImportHook(MetaPathFinder):
    """Imports `module` after another finder's loader has run the module `registry`."""

    def __init__(self, registry: str, module: str) -> None:
        self.registry, self.module = registry, module

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.registry:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            importlib.import_module(self.module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
