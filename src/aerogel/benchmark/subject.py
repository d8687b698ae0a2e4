"""What is measured, and the work of the processes in which it is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from transformers import PreTrainedModel

from aerogel import models
from aerogel.benchmark.machine import peak_memory
from aerogel.errors import ModelError, expect
from aerogel.models import Head
from aerogel.models.quiet import quiet_transformers
from aerogel.pruning import PruneConfig, prune
from aerogel.runtime import compress, decompress
from aerogel.runtime.layers import sparse_layers
from aerogel.tasks import context_length


@dataclass(frozen=True)
class Subject:
    """A model to measure: a name or folder, pruned on loading where `pruning` says so.

    `head` replaces the checkpoint's own head; the study measures every model with one for two classes.
    """

    name: str
    pruning: PruneConfig | None = None
    head: Head | None = None

    def __post_init__(self) -> None:
        expect(self.name, str | os.PathLike, ModelError, "the name or folder of a model")
        object.__setattr__(self, "name", os.fspath(self.name))


@dataclass(frozen=True)
class Checkpoint:
    """A subject saved in the form that it is measured in: dense, or with its pruned layers compressed.

    Bytes of parameters and buffers in memory, and of the weight files on disk.
    """

    name: str
    folder: Path
    compressed: bool
    parameter_bytes: int
    file_bytes: int


def prepare(connection: Connection, subject: Subject, scratch: Path, threads: int, seed: int) -> None:
    """Saves the subject dense, and compressed where that packs anything, and answers with the checkpoints.

    This has a process of its own, so that pruning and packing leave nothing behind in the memory that is measured.
    """
    # first of all: after a fork, transformers' loading threads would race to renew PyTorch's pool
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = models.load_model(subject.name, subject.head)
    values = getattr(getattr(model.config, "quantization_config", None), "values", None)
    model = decompress(model)
    if model.config.pad_token_id is None:  # GPT-2's: a batch for its classifier needs one, whichever it is
        model.config.pad_token_id = 0
    if subject.pruning:
        prune(model, subject.pruning)
    made = [_save(model, subject.name, scratch / "dense", compressed=False)]
    if sparse_layers(compress(model, values)):
        made.append(_save(model, subject.name, scratch / "compressed", compressed=True))
    connection.send(("done", made))


def serve(
    connection: Connection, checkpoint: Checkpoint, batch_size: int, length: int, threads: int, seed: int
) -> None:
    """Loads the checkpoint and says so, then times a round at each request until told to stop.

    The answer to a request is its seconds, and the peak of memory so far over that of the process before loading.
    """
    torch.set_num_threads(threads)
    baseline = peak_memory()
    torch.manual_seed(seed)
    model = models.load_model(str(checkpoint.folder))
    batch = _random_batch(model, batch_size, length)
    requests: dict[str, Callable[[PreTrainedModel, dict[str, torch.Tensor]], float]] = {
        "inference": _infer,
        "training": _train,
    }
    connection.send(("done", None))
    while (request := connection.recv()) != "stop":
        seconds = requests[request](model, batch)
        if request == "training":
            _give_back()
        connection.send(("done", (seconds, peak_memory() - baseline)))


def _give_back() -> None:
    """Hands freed memory back to the system: the next process to train has as many gigabytes of its own to fill."""
    with contextlib.suppress(AttributeError):  # glibc alone keeps it, and can be told not to
        ctypes.CDLL(None).malloc_trim(0)


def _random_batch(model: PreTrainedModel, batch_size: int, length: int) -> dict[str, torch.Tensor]:
    """Random token ids without special ones, with labels for a training step."""
    config = model.config
    positions = context_length(config)
    if positions is not None and length > positions:
        raise ModelError(f"sequence length {length} is beyond the model's {positions} positions")
    ids = torch.randint(10, config.vocab_size, (batch_size, length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if config.is_encoder_decoder and config.eos_token_id is not None:
        ids[:, -1] = config.eos_token_id  # BART's classifier reads the state at the last one
    kind = models.head_kind(model)
    if kind == "classification":
        batch["labels"] = torch.zeros(batch_size, dtype=torch.long)
    elif kind == "language-modelling":
        batch["labels"] = ids
    elif config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids
    return batch


def _infer(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> float:
    """Seconds of one forward pass."""
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    if model.config.is_encoder_decoder and models.head_kind(model) == "language-modelling":
        inputs["decoder_input_ids"] = batch["labels"]
    with torch.inference_mode():
        started = time.perf_counter()
        model(**inputs)
        return time.perf_counter() - started


def _train(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> float:
    """Seconds of one step: forward, backward, AdamW. A model without a head is pulled towards zero."""
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


def _save(model: PreTrainedModel, name: str, folder: Path, compressed: bool) -> Checkpoint:
    with quiet_transformers():
        model.save_pretrained(folder)
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return Checkpoint(name, folder, compressed, held, files)
