"""Recovery: fine-tuning with zeros kept or added, and distillation from a dense model.

Names are imported when they are first used: the schedules and precisions in its modules need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
