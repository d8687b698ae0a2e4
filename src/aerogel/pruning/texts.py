"""Lists of texts to calibrate on."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel.errors import ModelError, PruningError
from aerogel.models import load_tokenizer
from aerogel.tasks import Examples, Task, TaskData


def is_texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(text, str) for text in value)


def texts_data(texts: Sequence[str]) -> TaskData:
    """Texts as the examples of a task; each is encoded alone. They have no labels, which calibration does not read."""
    examples = Examples([(text,) for text in texts], [0] * len(texts))
    return TaskData(Task("texts", "sentence_classification"), {"train": examples}, "texts in memory")


def tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder, zoo entry or hub repository that a model was loaded from. Raises `PruningError`."""
    name = model.name_or_path
    try:
        if name:
            return load_tokenizer(name)
        problem = "the model was not loaded from a folder or the hub"
    except ModelError as error:
        problem = str(error)
    raise PruningError(
        f"the texts to calibrate on need the model's tokenizer, and it was not found ({problem}): pass "
        "calibration=aerogel.calibration(texts, tokenizer)"
    )
