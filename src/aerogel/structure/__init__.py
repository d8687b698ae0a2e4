"""Structured pruning: removes attention heads, feed-forward neurons and whole sub-layers, so that models are smaller.

Names are imported when they are first used: `aerogel.structure.plan` is imported while transformers itself is.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
