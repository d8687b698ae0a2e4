"""What a checkpoint may leave out."""

from __future__ import annotations

# Parts of a bare body that some checkpoints have and others do not: transformers builds a class with or without them.
OPTIONAL = {"pooler", "mask_token"}


def is_optional(key: str) -> bool:
    """Whether the tensor belongs to a part of a body that heads train or leave out: a pooler, a mask token."""
    return not OPTIONAL.isdisjoint(key.split("."))
