"""The experiment: specification, trials, store, and running them.

Names are imported when they are first used: reading a study's TOML needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
