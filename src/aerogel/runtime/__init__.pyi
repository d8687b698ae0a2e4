from .conversion import compress as compress, decompress as decompress
