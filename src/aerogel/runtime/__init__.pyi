from .conversion import compress as compress, decompress as decompress
from .prune_checkpoint import prune_checkpoint as prune_checkpoint
