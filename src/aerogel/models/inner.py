"""The transformers model within a model of sentence-transformers."""

from typing import Any

from transformers import PreTrainedModel


def inner_model(model: Any) -> Any:
    """The transformers model that a `SentenceTransformer` or `CrossEncoder` runs; any other argument as it is."""
    inner = getattr(model, "transformers_model", None)
    return inner if isinstance(inner, PreTrainedModel) else model
