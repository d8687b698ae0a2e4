"""`aerogel pack`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aerogel import files
from aerogel.cli import options
from aerogel.cli.notes import note_next, note_saved
from aerogel.cli.output import progress_bar, resumable
from aerogel.models.zoo import check_path
from aerogel.runtime.values import check_head_values

if TYPE_CHECKING:
    from aerogel.runtime.values import HeadChoice, ValueChoice


@click.command(
    epilog=options.examples(
        "aerogel pack pruned --output packed", "aerogel pack pruned --values int8 --output packed-int8"
    )
)
@click.argument("model")
@options.output
@options.values
@options.head_values
def pack(model: str, *, output: Path, values: ValueChoice | None, head_values: HeadChoice | None) -> None:
    """Pack a MODEL that already has zeros.

    The packed model is smaller and faster. Use it for a model that was pruned by another tool, or saved with --no-pack.
    `aerogel prune` packs its output itself.
    """
    check_head_values(head_values, values)
    files.check_new(output)
    check_path(model)
    with progress_bar():
        from aerogel.cli.streaming import streams
        from aerogel.pruning import PruneConfig
        from aerogel.runtime import prune_checkpoint
        from aerogel.runtime.writing import pack as write_packed

        none = PruneConfig("magnitude", sparsity=0.0)
        if streams(model, output, none, structure=False):
            with resumable("at the block that it was in"):
                saved = prune_checkpoint(model, output, none, values=values, head_values=head_values)
        else:
            saved = write_packed(model, output, values, head_values)
    note_saved(saved, model, output, True, values)
    note_next("bench", output)
