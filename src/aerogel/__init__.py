"""aerogel prunes and quantizes transformers, restores their accuracy, and runs them faster on CPUs.

Names are imported when they are first used, so that `import aerogel` is fast.
"""

from importlib.metadata import version
from typing import Any

import lazy_loader

from aerogel.registration import register

register()
_import_name, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return version("aerogel") if name == "__version__" else _import_name(name)
