"""Running pruned models sparse: packed weights, sparse layers, checkpoints.

Names are imported when they are first used: `aerogel.runtime.quantizer` is imported while transformers itself is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aerogel.lazy import lazy_names

if TYPE_CHECKING:
    from aerogel.runtime.conversion import compress, decompress

__all__ = ["compress", "decompress"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "conversion"))
