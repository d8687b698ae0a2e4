"""The models to measure, and the functions that run in the measuring processes."""

import contextlib
import ctypes
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from transformers import PreTrainedModel

from aerogel import models
from aerogel.benchmark.checkpoint import WARM_UP, Checkpoint
from aerogel.benchmark.forward import default_measure
from aerogel.benchmark.inputs import inference_inputs, random_batch
from aerogel.benchmark.machine import peak_memory
from aerogel.errors import ModelError, expect
from aerogel.models import Head
from aerogel.models.checkpoint import StoredDtypes
from aerogel.models.marking import marked_config
from aerogel.models.quiet import quiet_transformers
from aerogel.pruning import PruneConfig, prune
from aerogel.runtime import compress, decompress
from aerogel.runtime.layers import sparse_layers
from aerogel.runtime.values import ValueChoice
from aerogel.structure import StructureConfig, prune_structure
from aerogel.tasks import context_length

FEW = 16  # sequences of the first training step, and of the inference that warms up a longer one
SHORT = 0.1  # seconds: a shorter inference is warmed up with the whole batch
BATCHES, BATCH_SIZE, LENGTH = 4, 4, 64  # of random tokens, by which structures are removed


@dataclass(frozen=True)
class Subject:
    """A model to measure: a name or folder, and how to prune it after loading.

    `head` replaces the head of the checkpoint; a study measures every model with a classifier for two classes. `values`
    are those of `aerogel.compress`; `None` is what the checkpoint has. With `structure` heads and neurons are removed
    first, by random tokens: the time depends on the target, hardly on which ones are removed. Its training steps are
    measured if it `trains`.

    >>> Subject("tiny-bert").name
    'tiny-bert'
    """

    name: str
    pruning: PruneConfig | None = None
    head: Head | None = None
    values: ValueChoice | None = None
    structure: StructureConfig | None = None
    trains: bool = True

    def __post_init__(self) -> None:
        expect(self.name, str | os.PathLike, ModelError, "the name or folder of a model")
        object.__setattr__(self, "name", os.fspath(self.name))


def prepare(connection: Connection, subject: Subject, scratch: Path, threads: int, seed: int) -> None:
    """Save the subject dense, and compressed if that packs any layer, and send the checkpoints.

    This runs in its own process, so that pruning and packing do not count in the memory that is measured.
    """
    # must come first: after a fork, transformers' loading threads would race to recreate PyTorch's thread pool
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = models.load_model(subject.name, subject.head)
    packed = marked_config(model)
    values = subject.values or packed.get("values")
    has_head = values == "int8" and model.get_output_embeddings() is not None
    head_values = packed.get("head_values") if has_head else None
    model = decompress(model)
    if getattr(model.config, "pad_token_id", 0) is None:  # GPT-2's classifier needs one to find the end of a sequence
        model.config.pad_token_id = 0
    if subject.structure:
        length = min(LENGTH, context_length(model.config) or LENGTH)
        text = [random_batch(model, BATCH_SIZE, length) for _ in range(BATCHES)]
        prune_structure(model, subject.structure, text, default_measure(subject.pruning, subject.values))
    if subject.pruning:
        prune(model, subject.pruning)
    dtypes = models.stored_dtypes(subject.name)
    checkpoints = [_save(model, subject, scratch / "dense", dtypes, compressed=False)]
    if sparse_layers(compress(model, values, head_values)):
        checkpoints.append(_save(model, subject, scratch / "compressed", dtypes, compressed=True))
    connection.send(("done", checkpoints))


def serve(
    connection: Connection, checkpoint: Checkpoint, batch_size: int, length: int, threads: int, seed: int
) -> None:
    """Load the checkpoint, then time one round per request until "stop".

    The reply to a request is its seconds and the peak memory so far, above that of the process before loading. The
    first training step has a part of a large batch, to load the code; memory is freed after each step, so it is never
    warm.
    """
    torch.set_num_threads(threads)
    baseline = peak_memory()
    torch.manual_seed(seed)
    model = models.load_model(str(checkpoint.folder))
    batch = random_batch(model, batch_size, length)
    few = {name: values[:FEW] for name, values in batch.items()}
    rounds, batches = {"inference": _infer, "training": _train}, {"inference": batch, "training": few}
    connection.send(("done", None))
    seconds = WARM_UP
    while (request := connection.recv()) != "stop":
        if request == "inference" and seconds < WARM_UP:
            _infer(model, batch if seconds < SHORT else few)
        seconds = rounds[request](model, batches[request])
        if request == "training":
            batches[request] = batch
            with contextlib.suppress(AttributeError):  # only glibc has this function
                ctypes.CDLL(None).malloc_trim(0)  # so that the next process that trains gets the freed memory
        connection.send(("done", (seconds, peak_memory() - baseline)))


def _infer(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> float:
    """Seconds of one forward pass."""
    inputs = inference_inputs(model, batch)
    with torch.inference_mode():
        started = time.perf_counter()
        model(**inputs)
        return time.perf_counter() - started


def _train(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> float:
    """Seconds of one step: forward, backward, AdamW. Without labels the loss is the mean squared output."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    model.train()
    started = time.perf_counter()
    output = model(**batch)
    loss = output.loss if "labels" in batch else output[0].square().mean()
    loss.backward()
    optimizer.step()
    seconds = time.perf_counter() - started
    model.zero_grad(set_to_none=True)
    model.eval()
    return seconds


def _save(model: PreTrainedModel, subject: Subject, folder: Path, dtypes: StoredDtypes, compressed: bool) -> Checkpoint:
    """Writes a checkpoint to measure: in float32, but packed values that were not rounded have the `dtypes`."""
    in_memory = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    for path, layer in sparse_layers(model):
        if layer.values.dtype == torch.float32:
            layer.to(dtypes.of_tensor(f"{path}.weight"))
    with quiet_transformers():
        model.save_pretrained(folder)
    trains = subject.trains and not compressed
    return Checkpoint(subject.name, folder, compressed, in_memory, dtypes.size(folder), trains=trains)
