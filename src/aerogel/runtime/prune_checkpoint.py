"""Prune a checkpoint from its files, for a model that is larger than memory."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version

from transformers import PreTrainedModel

from aerogel import files, models, progress
from aerogel.errors import ModelError, PruningError
from aerogel.memory import free_memory, return_freed_tensors
from aerogel.models.location import local_folder
from aerogel.models.quiet import quiet_transformers
from aerogel.models.saving import save_others
from aerogel.models.skeleton import skeleton
from aerogel.pruning import PruneConfig
from aerogel.pruning.batches import Batch
from aerogel.pruning.block_inputs import IN_MEMORY
from aerogel.pruning.blocks import block_lists, walk
from aerogel.pruning.calibration import CalibrationSource, as_calibration
from aerogel.pruning.one_shot import prune_block
from aerogel.pruning.plan import PrunePlan
from aerogel.pruning.pruning_method import one_shot_method
from aerogel.pruning.texts import tokenizer_of
from aerogel.runtime.block_streaming import StreamingLoader, smooth_and_round
from aerogel.runtime.fused.head import head_weight
from aerogel.runtime.packable import packable_layers
from aerogel.runtime.shards import Progress, ShardWriter
from aerogel.runtime.tensor_source import OUTSIDE, TensorSource
from aerogel.runtime.values import HeadChoice, ValueChoice, check_head_values
from aerogel.runtime.writing import Saved, ZeroCount

IN_MEMORY_SHARE = 8  # activations stay in memory up to this part of what is free
# copies of a matrix, with and without swaps, and of the Hessian of its inputs, that methods hold at once
WORK_MATRICES, SWAP_MATRICES, WORK_HESSIANS = 9, 16, 3


def prune_checkpoint(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: PruneConfig,
    calibration: CalibrationSource | None = None,
    *,
    pack: bool = True,
    values: ValueChoice | None = None,
    head_values: HeadChoice | None = None,
) -> Saved:
    """Prunes a model from its files into the folder `output`, with one transformer block in memory at a time.

    The result is that of `aerogel.prune` on the model in float32, saved: the same masks and the same bits. Memory holds
    the embeddings or one block, and the inputs of the blocks on the calibration text, beyond an eighth of the free
    memory on disk. The folder has a shard for each block. If this is interrupted, the same call resumes at the block it
    was in; until then the work is in a hidden folder beside `output`, as large as the output and twice the inputs of a
    block.

    Args:
        source: a zoo name, a local folder or the id of a model in the hub's cache, with safetensors files.
        output: a new folder.
        config: the allocation is uniform. Others need all scores at once.
        calibration: as in `aerogel.prune`; for `config.values` too.
        pack: whether layers are packed.
        values: packed values are rounded to this type, and the head's to `head_values`: see `aerogel.compress`.

    Raises `PruningError` for what can't be done a block at a time, and where a block does not fit in memory;
    `ModelError` for files that are missing, truncated or of another model; `DataError`; `AerogelError` for an output
    that exists, a full disk, and if an interrupted call had other settings.

    >>> saved = prune_checkpoint("tiny-gpt2", "sparse", PruneConfig(sparsity=0.9))
    >>> round(saved.zeros.sparsity, 2)
    0.9
    """
    check_head_values(head_values, values)
    config = streamable(config)
    return_freed_tensors()
    folder = local_folder(source)
    if folder is None:
        raise ModelError(f"{source} has no local files to read a block at a time: download it first")
    model = skeleton(source)
    plan = PrunePlan.of(model, config, on_meta=True)
    rounded = models.prunable_weights(model, on_meta=True) if config.values and calibration is not None else []
    tensors = TensorSource(model, folder)
    batches = _batches(model, plan, calibration, bool(rounded))
    check_memory(plan, tensors, batches)
    packable = _packable(model, head_values) if pack else set()
    parameters = models.parameter_count(model)
    settings = {
        "model": [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in sorted(tensors.files)],
        "configuration": asdict(config) | {"pack": pack, "values": values, "head_values": head_values},
        "calibration": _digest(batches),
        "version": {name: version(name) for name in ("aerogel", "torch", "transformers")},
    }
    with files.resumable_folder(output) as (new, state), quiet_transformers():
        for abandoned in state.glob("aerogel-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        done = Progress.read(state / "progress.json", settings)
        writer = ShardWriter(tensors, new, packable, values)
        loader = StreamingLoader(writer, done, plan, rounded, min(IN_MEMORY, free_memory() // IN_MEMORY_SHARE))
        _prune_blocks(model, plan, batches, loader)
        units = [unit for unit in tensors.keys if unit not in done.done]
        for unit in progress.track(units, f"pruning ({plan.method.name})"):
            loader.load(unit)
            loader.write(unit)
        is_packed = writer.finish(head_values)
        zeros = ZeroCount(
            sum(shard.zeros for shard in done.shards), sum(shard.prunable for shard in done.shards), parameters
        )
        provenance = models.Provenance(method=config.method, pattern=config.pattern, sparsity=zeros.sparsity)
        left_out = save_others(model, None, new, source, provenance)
    return Saved(zeros, str(tensors.dtypes.main).removeprefix("torch."), is_packed, left_out)


def streamable(config: PruneConfig) -> PruneConfig:
    """The configuration with the allocation uniform. Raises `PruningError` for one that needs the whole model.

    Methods that need gradients do: these are those of the model's predictions at the outputs of all its matrices.
    """
    if config.scope == "global" or config.allocation not in (None, "uniform"):
        chosen = "global" if config.scope == "global" else config.allocation
        raise PruningError(f"allocation {chosen} compares all matrices, which needs the whole model in memory")
    if one_shot_method(config.method).needs == "gradients":
        raise PruningError(
            f"method {config.method} needs gradients of the whole model in memory: use admm, which comes closest (on "
            "smollm2 at 50% the loss rises 1.5 times as much as with best)"
        )
    config = replace(config, allocation="uniform")
    if config.values and config.targets != ("blocks",):
        raise PruningError(
            "values int8 are rounded on the outputs of embeddings that are not pruned: leave out include"
        )
    return config


def _prune_blocks(model: PreTrainedModel, plan: PrunePlan, batches: Sequence[Batch], loader: StreamingLoader) -> None:
    """Prunes and rounds all blocks that need calibration text for it."""
    shares = dict.fromkeys((weight.name for weight in plan.weights), plan.sparsity)
    doing = f"pruning ({plan.method.name})"
    if plan.config.needs_calibration:
        for block in walk(model, plan.weights, batches, plan.needs_hessian, doing, loader=loader):
            prune_block(plan, block, shares, {})
    elif loader.rounded:
        for block in walk(model, loader.rounded, batches, True, doing, loader=loader):
            smooth_and_round(block)


def _batches(
    model: PreTrainedModel, plan: PrunePlan, calibration: CalibrationSource | None, rounds: bool
) -> list[Batch]:
    """The calibration text, empty if nothing needs it. Raises for a model that can't be calibrated from its files."""
    if not plan.config.needs_calibration and not rounds:
        return []
    if calibration is None:
        raise PruningError(
            f"{plan.config.needs_text_for} needs calibration text: give calibration=aerogel.calibration(...)"
        )
    lists = block_lists(model, plan.weights)
    if len(lists) > 1:
        raise ModelError(
            f"{type(model).__name__} has {len(lists)} lists of blocks, {' and '.join(name for name, _ in lists)}: "
            "calibration from files needs one; use a method without calibration"
        )
    if models.head_kind(model) == "classification" and model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer_of(model).pad_token_id  # decoders need it to find the end of a sentence
    return as_calibration(calibration, model).batches(model)


def _packable(model: PreTrainedModel, head_values: HeadChoice | None) -> set[str]:
    weights = models.prunable_weights(model, on_meta=True)
    if head_values:
        weights.append(head_weight(model))
    return packable_layers(model) & {weight.name for weight in weights}


def check_memory(plan: PrunePlan, tensors: TensorSource, batches: Sequence[Batch]) -> None:
    """Raises `PruningError` if one block and what its pruning takes, estimated, are more than the free memory."""
    block = max(tensors.bytes(unit) for unit in tensors.keys if unit != OUTSIDE)
    matrices = SWAP_MATRICES if plan.config.swap else WORK_MATRICES
    hessians = WORK_HESSIANS if plan.needs_hessian else 0
    shapes = [weight.matrix.shape for weight in plan.weights]
    needed = block + max(4 * columns * (matrices * rows + hessians * columns) for rows, columns in shapes)
    if batches:
        needed = max(needed, tensors.bytes(OUTSIDE) + block)
    free = free_memory()
    if needed > free:
        raise PruningError(
            f"pruning one block takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        )


def _digest(batches: Sequence[Batch]) -> str:
    content = hashlib.sha256()
    for batch in batches:
        for name, values in batch.items():
            content.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            content.update(values.double().numpy().tobytes())
    return content.hexdigest()
