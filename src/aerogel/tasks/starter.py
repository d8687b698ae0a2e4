"""Data sets that need no hub: rated movie reviews from a package, Python's own reference manual, written digits."""

import re
import tarfile
import zipfile
import zlib
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from aerogel.models.wheel import Package, fetch
from aerogel.tasks.rows import Rows

VADER = Package("vaderSentiment", "0.5", "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a", 3)
REVIEWS = "movieReviewSnippets_GroundTruth.txt"
HELD_OUT_OF_TEN = 2


def movie_reviews() -> dict[str, Rows]:
    """Sentences of movie reviews, labelled 1 if their mean human rating is above zero, 0 if below.

    From the ground truth of Hutto and Gilbert 2014 (MIT licence). A hash of the sentence decides which rows are held
    out for validation.
    """
    path = fetch(VADER, _unpack_reviews) / REVIEWS
    splits: dict[str, list[dict[str, str | int]]] = {"train": [], "validation": []}
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    # the file is sorted by rating; in the order of a hash, any part is a fair sample
    for _, rating, sentence in sorted(lines, key=lambda line: zlib.crc32(line[2].encode()[::-1])):
        if float(rating):
            row: dict[str, str | int] = {"text": sentence, "label": int(float(rating) > 0)}
            splits["validation" if _held_out(sentence) else "train"].append(row)
    return {split: Rows(("text", "label"), rows, "movie-reviews") for split, rows in splits.items()}


def python_reference() -> dict[str, Rows]:
    """The text of the language reference that comes with CPython; a hash decides which topics are held out.

    Topics share paragraphs: each is used once, for validation first, so that none is in both splits.
    """
    splits: dict[str, list[str]] = {"train": [], "validation": []}
    seen: set[str] = set()
    for name, text in sorted(topics.items(), key=lambda topic: (not _held_out(topic[0]), topic)):
        paragraphs = [part.strip("\n") for part in re.sub(r"\*{3,}|={3,}", "", text).split("\n\n")]
        splits["validation" if _held_out(name) else "train"] += [part for part in paragraphs if part not in seen]
        seen.update(paragraphs)
    texts = {split: "\n\n".join(filter(str.strip, parts)) for split, parts in splits.items()}
    return {split: Rows(("text",), [{"text": text}], "python-reference") for split, text in texts.items()}


def digits() -> dict[str, Rows]:
    """Grey images of 8 by 8 pixels of handwritten digits, which come with scikit-learn.

    A hash of the pixels decides which images are held out for validation.
    """
    from sklearn.datasets import load_digits

    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    data = load_digits()
    for pixels, label in zip(np.rint(data.images * (255 / 16)).astype(np.uint8), data.target.tolist(), strict=True):
        held_out = zlib.crc32(pixels.tobytes()) % 10 < HELD_OUT_OF_TEN
        splits["validation" if held_out else "train"].append({"image": pixels, "label": label})
    return {split: Rows(("image", "label"), rows, "digits") for split, rows in splits.items()}


def _held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % 10 < HELD_OUT_OF_TEN


def _unpack_reviews(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as package:
        inner = package.extract("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", archive.parent)
    with tarfile.open(inner) as tar:
        file = tar.extractfile(f"hutto_ICWSM_2014/{REVIEWS}")
        assert file, "it is a plain file"
        (folder / REVIEWS).write_bytes(file.read())
