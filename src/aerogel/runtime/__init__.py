"""Running pruned models sparse: packed weights, sparse layers, checkpoints."""

from aerogel.runtime.conversion import compress, decompress

__all__ = ["compress", "decompress"]
