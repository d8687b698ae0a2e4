"""Latency, throughput, memory and size of models, measured in fresh processes.

Names are imported when they are first used: checking the name of a runtime needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
