"""Writes a checkpoint folder, with the other files of the source checkpoint."""

import os
import shutil
from pathlib import Path, PurePath

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel import files
from aerogel.models.card import Provenance, write_card
from aerogel.models.companions import companions, is_inside
from aerogel.models.loading import has_tokenizer
from aerogel.models.location import base_name, local_folder
from aerogel.models.marking import marked_config
from aerogel.models.pooling import MODULES, used_pooling
from aerogel.models.quiet import quiet_transformers
from aerogel.models.tokenizer import without_padding

CARD = "README.md"


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    output: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    provenance: Provenance | None = None,
) -> list[str]:
    """Write a checkpoint folder completely or not at all; a compressed model is saved packed.

    With `source`, the name that the model was loaded by, the tokenizer and all other files beside the weights are
    copied from the source byte for byte, and its model card gets a section on the changes. Without, the tokenizer is
    saved with its original padding. A model that served as an embedding model gets the files by which
    sentence-transformers pools alike, unless the source has them. Returns the names of files that were not copied: too
    large, unreadable, or links that lead out of the source. Raises `AerogelError` if `output` already exists.
    """
    with files.new_folder(output) as new, quiet_transformers():
        model.save_pretrained(new)
        return save_others(model, tokenizer, new, source, provenance)


def save_others(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    new: Path,
    source: str | os.PathLike[str] | None,
    provenance: Provenance | None,
) -> list[str]:
    """Writes the other files of a checkpoint to the folder `new`, and returns those left out, see `save`."""
    folder = local_folder(source) if source is not None else None
    if tokenizer is not None and not (folder and has_tokenizer(str(folder))):
        without_padding(tokenizer).save_pretrained(new)
    pooling = used_pooling(model)
    if pooling and not (folder and (folder / MODULES).is_file()):
        pooling.write(new, model.config.hidden_size)
    if source is None:
        return []
    left_out: tuple[PurePath, ...] = ()
    if folder is not None:
        others = companions(folder)
        others.copy(folder, new)
        left_out = others.left_out
        if is_inside(folder / CARD, folder.resolve()):
            shutil.copyfile(folder / CARD, new / CARD)
        elif (folder / CARD).is_symlink():
            left_out = (*left_out, PurePath(CARD))
    write_card(new / CARD, base_name(source), provenance, needs_aerogel=bool(marked_config(model)))
    return [str(file) for file in left_out]
