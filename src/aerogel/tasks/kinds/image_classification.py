"""Classes of images."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, default_data_collator

from aerogel.tasks.classification import Classification
from aerogel.tasks.images import Images, is_image, open_image, read_images
from aerogel.tasks.kind import Task
from aerogel.tasks.predictions import Inputs, InputSettings
from aerogel.tasks.read import divided_rows
from aerogel.tasks.rows import Role, Rows

IMAGE = Role("image", ("img", "picture", "photo", "image_path", "path", "file", "file_name"))
LABEL = Role("label", ("labels", "class", "category", "target", "fine_label", "digit"))


class ImageClassification(Classification):
    """A split is `Images`; an image processor stands in the tokenizer's place.

    The column of images has images of Pillow, arrays, the content of image files or their paths, which are relative to
    the file that names them.
    """

    name = "image_classification"
    head = "image-classification"
    roles = (IMAGE, LABEL)

    def fits(self, rows: Rows) -> bool:
        return is_image(rows[0]["image"], Path(rows.source).parent)

    def read(self, task: Task, splits: Mapping[str, Rows]) -> tuple[Task, dict[str, Images]]:
        if not task.labels:
            task = self.with_labels(task, next(iter(splits.values())))
        label = partial(self.label, task)
        return task, {split: read_images(rows, label) for split, rows in splits.items()}

    def divide(self, content: Images, source: str) -> dict[str, Images]:
        keys = [file if isinstance(file, bytes) else Path(file).name.encode() for file in content.files]
        return {split: content.part(rows) for split, rows in divided_rows(keys, source).items()}

    def inputs(self, content: Images, tokenizer: Any, config: PretrainedConfig, settings: InputSettings) -> Inputs:
        rows = ProcessedImages(content.first(settings.limit), tokenizer, config)
        return Inputs(rows, settings.batch_size, default_data_collator)

    def calibration_rows(
        self, content: Images, tokenizer: Any, model: PreTrainedModel, settings: InputSettings
    ) -> list[dict[str, Tensor]]:
        """As many images as `limit`."""
        order = torch.randperm(len(content), generator=torch.Generator().manual_seed(settings.seed)).tolist()
        rows = ProcessedImages(content.part(order[: settings.limit]), tokenizer, model.config)
        return [{"pixel_values": row["pixel_values"]} for row in rows]


class ProcessedImages(Sequence[dict[str, Any]]):
    """Inputs of a model, made when they are needed, since pixels of all images need too much memory."""

    def __init__(self, images: Images, processor: Any, config: PretrainedConfig) -> None:
        self.images, self.processor = images, processor
        self.mode = "L" if getattr(config, "num_channels", 3) == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        image = open_image(self.images.files[index], self.mode)
        pixels = self.processor(image, return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels, "labels": self.images.labels[index]}


KIND = ImageClassification()
