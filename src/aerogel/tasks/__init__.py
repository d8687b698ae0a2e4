"""Tasks: their data, how text becomes a model's inputs, and the metrics; one file a kind of task in `kinds`.

Names are imported when they are first used: finding a task needs neither torch nor transformers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
