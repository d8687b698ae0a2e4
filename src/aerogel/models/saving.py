"""Writing a checkpoint folder, with all that the folder of its source has beside the weights."""

from __future__ import annotations

import os
import shutil
from pathlib import PurePath

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel import files
from aerogel.models.card import Provenance, write_card
from aerogel.models.companions import companions, is_inside
from aerogel.models.loading import has_tokenizer
from aerogel.models.location import base_name, local_folder
from aerogel.models.prunable import PackedLayer
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
    """Writes a checkpoint folder, whole or not at all, packed where the model is compressed.

    With `source`, the name that the model was loaded by, the tokenizer's files and all others beside the weights are
    those of the source, byte for byte, and its model card gets a section on what was done. Without, the tokenizer is
    saved as it was before `load_tokenizer` set up its padding. Returns the names of files that were too large to be
    taken over, or links that lead out of the source. Raises `AerogelError` where `output` exists.
    """
    folder = local_folder(source) if source is not None else None
    with files.new_folder(output) as new, quiet_transformers():
        model.save_pretrained(new)
        if tokenizer is not None and not (folder and has_tokenizer(str(folder))):
            without_padding(tokenizer).save_pretrained(new)
        if source is None:
            return []
        left_out: tuple[PurePath, ...] = ()
        if folder is not None:
            found = companions(folder)
            found.copy(folder, new)
            left_out = found.left_out
            if is_inside(folder / CARD, folder.resolve()):
                shutil.copyfile(folder / CARD, new / CARD)
            elif (folder / CARD).is_symlink():
                left_out = (*left_out, PurePath(CARD))
        packed = any(isinstance(module, PackedLayer) for module in model.modules())
        write_card(new / CARD, base_name(source), provenance, packed)
    return [str(file) for file in left_out]
