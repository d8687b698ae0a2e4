"""Classes of sentences or of pairs of sentences."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from aerogel.tasks.augment import AugmentedExamples
from aerogel.tasks.classification import Classification
from aerogel.tasks.encode import drawn_rows, encode_examples
from aerogel.tasks.kind import Task
from aerogel.tasks.predictions import Batch, Inputs, InputSettings
from aerogel.tasks.read import Examples, check_classes, divided_rows, read_examples
from aerogel.tasks.rows import Role, Rows

TEXT = Role("text", ("sentence", "sentence1", "question1", "premise", "query", "content", "review", "document"))
TEXT_PAIR = Role("text_pair", ("sentence2", "question2", "hypothesis", "passage", "answer"), optional=True)
LABEL = Role("label", ("labels", "class", "category", "target", "sentiment", "score", "stars"))


class SentenceClassification(Classification):
    """A split is `Examples`, of one or two texts and a label."""

    name = "sentence_classification"
    head = "classification"
    roles: ClassVar[tuple[Role, ...]] = (TEXT, TEXT_PAIR, LABEL)

    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, Examples]]:
        if not task.labels:
            task = self.with_labels(task, next(iter(splits.values())))
        label = partial(self.label, task)
        contents = {split: read_examples(rows, rows.columns[:-1], label) for split, rows in splits.items()}
        if len(splits) > 1 and len(task.labels) > 1:  # a single split may only be scored
            check_classes(contents["train"].labels, task.labels, splits["train"].source)
        return task, contents

    def divide(self, content: Examples, source: str) -> dict[str, Examples]:
        keys = ["\t".join(texts).encode() for texts in content.texts]
        return {split: content.part(rows) for split, rows in divided_rows(keys, source).items()}

    def inputs(
        self, content: Examples, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, settings: InputSettings
    ) -> Inputs:
        examples = content.first(settings.limit)
        encode = partial(encode_examples, tokenizer=tokenizer, config=config, max_length=settings.max_length)
        return encoded_inputs(examples, encode, DataCollatorWithPadding(tokenizer), settings)

    def calibration_rows(
        self, content: Examples, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, settings: InputSettings
    ) -> list[dict[str, Tensor]]:
        def encoded(example: int) -> list[dict[str, Tensor]]:
            alone = InputSettings(max_length=settings.max_length)
            inputs = self.inputs(content.part([example]), tokenizer, model.config, alone)
            batch = inputs.collate(list(inputs.rows))
            return [{name: values[0] for name, values in batch.items() if name != "labels"}]

        return drawn_rows(len(content), encoded, settings)


def encoded_inputs(
    examples: Examples,
    encode: Callable[[Any], list[dict[str, Any]]],
    collate: Callable[[list[dict[str, Any]]], Batch],
    settings: InputSettings,
) -> Inputs:
    """Texts as a model's inputs; with augmentation, each epoch of a training has changed ones among them."""
    augmented = None
    if settings.augmentation:
        augmented = AugmentedExamples(examples, encode, settings.augmentation, settings.seed)
    rows = augmented.encoded if augmented else encode(examples)
    return Inputs(rows, settings.batch_size, collate, by_length=True, augmented=augmented)


KIND = SentenceClassification()
