"""Labelled images, kept as files until a model reads them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from aerogel.errors import DataError, excerpt, shown
from aerogel.tasks.read import check_limit
from aerogel.tasks.rows import Rows

File = bytes | str
"""The content of an image file, or its path."""
STORED_MODES = ("1", "L", "P", "RGB", "RGBA", "I;16")  # of pixels in a PNG file


@dataclass(frozen=True)
class Images:
    """Images, each a file, and the numbers of their classes."""

    files: list[File]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: Sequence[int]) -> Images:
        return Images([self.files[row] for row in rows], [self.labels[row] for row in rows])

    def first(self, limit: int | None) -> Images:
        check_limit(limit, "examples")
        return self.part(range(len(self))[:limit])


def read_images(rows: Rows, label: Callable[[Any], Any]) -> Images:
    """The rows as images; `label` reads a label or raises `ValueError` with what is wrong."""
    columns = {"image": _file_of(Path(rows.source).parent), "label": label}
    values: dict[str, list[Any]] = {column: [] for column in columns}
    for number, row in enumerate(rows):
        for column, read in columns.items():
            try:
                values[column].append(read(row[column]))
            except ValueError as error:
                raise rows.error(number, error, column) from error
    return Images(values["image"], values["label"])


def is_image(value: Any, folder: Path) -> bool:
    """Whether a value is an image or the path of one, from `folder` if it is relative."""
    try:
        return bool(_file_of(folder)(value))
    except ValueError:
        return False


def open_image(file: File, mode: str) -> Image.Image:
    """The pixels, for example of mode "RGB". Raises `DataError` for a damaged file."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            return image.convert(mode)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"image {excerpt(file)} can't be read: {error}") from error


def png(image: Image.Image) -> bytes:
    """The image as the content of a PNG file."""
    stream = io.BytesIO()
    (image if image.mode in STORED_MODES else image.convert("RGB")).save(stream, "png")
    return stream.getvalue()


def _file_of(folder: Path) -> Callable[[Any], File]:
    """Reads an image: of PIL, an array, the content of a file, a path, or bytes and path as `datasets` has them."""

    def read(value: Any) -> File:
        if isinstance(value, Image.Image):
            return png(value)
        if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
            value = value.get("bytes") or value.get("path")
        if isinstance(value, np.ndarray | list):
            return png(_from_array(value))
        if not isinstance(value, bytes | str | PathLike) or not value:
            raise ValueError(f"expected an image, an array, or the path of an image, found {shown(value)}")
        file = value if isinstance(value, bytes) else str(folder / value)
        try:
            Image.open(io.BytesIO(file) if isinstance(file, bytes) else file).close()  # reads the header alone
        except UnidentifiedImageError as error:
            raise ValueError(f"{excerpt(value)} is not an image that Pillow reads") from error
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"image {excerpt(value)} can't be read: {error}") from error
        return file

    return read


def _from_array(value: Any) -> Image.Image:
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError("expected an array with rows of equal length") from error
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))
    if not has_shape or not array.size or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"expected an array (height, width) or (height, width, 3) of whole numbers from 0 to 255, found "
            f"{array.dtype} {array.shape}"
        )
    array = array.astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)
