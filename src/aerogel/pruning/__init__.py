"""Pruning: patterns, methods and scores, sparsity per matrix, and pruning a model in place.

Names are imported when they are first used: listing methods, scopes and allocations needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
