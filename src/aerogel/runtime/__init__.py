"""Running pruned models sparse: packed weights, sparse layers, checkpoints.

Names are imported when they are first used: `aerogel.runtime.quantizer` is imported while transformers itself is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aerogel.runtime.conversion import compress, decompress

__all__ = ["compress", "decompress"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'aerogel.runtime' has no attribute {name!r}")
    from aerogel.runtime import conversion

    return getattr(conversion, name)
