"""The kinds of weights that can be pruned, listed without importing torch."""

TARGETS = ("blocks", "embeddings", "heads")
