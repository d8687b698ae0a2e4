"""Running pruned models sparse: packed weights, sparse layers, checkpoints.

Names are imported when they are first used: `aerogel.runtime.quantizer` is imported while transformers itself is.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
