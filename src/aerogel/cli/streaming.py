"""Decides whether `aerogel prune` and `aerogel pack` read a model from its files, one block at a time."""

from pathlib import Path

from aerogel import files
from aerogel.cli.output import note
from aerogel.errors import PruningError
from aerogel.memory import free_memory
from aerogel.models.skeleton import float32_bytes
from aerogel.pruning import PruneConfig
from aerogel.runtime.prune_checkpoint import streamable
from aerogel.tables import size


def streams(model: str, output: Path, config: PruneConfig, structure: bool) -> bool:
    """True if the model takes more than half of the free memory, or if an interrupted output exists; notes why.

    Pruning that needs the whole model runs in memory if the model fits. Raises `PruningError` if it does not.
    """
    if files.unfinished_folder(output).exists():
        note(f"resuming the unfinished {output}")
        return True
    needed, free = float32_bytes(model), free_memory()
    if needed is None or needed <= free / 2:
        return False
    sizes = f"{model} takes {size(needed)} in float32, and {size(free)} of memory is free"
    try:
        if structure:
            raise PruningError("--structure needs the whole model in memory")
        streamable(config)
    except PruningError as error:
        if needed > free:
            raise PruningError(f"{sizes}: {error}") from error
        note(f"{sizes}: {error}")
        return False
    note(f"{sizes}: reading it from its files, one block at a time")
    return True
