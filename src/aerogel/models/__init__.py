"""Models, tokenizers, and which of their weights can be pruned.

Names are imported when they are first used: the zoo's table does not need torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
