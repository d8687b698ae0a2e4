"""What is measured, and the process of its own in which it is."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from aerogel import models
from aerogel.benchmark.machine import peak_memory
from aerogel.data import context_length
from aerogel.errors import ModelError
from aerogel.models import Head
from aerogel.models.quiet import quiet_transformers
from aerogel.pruning import PruneConfig, prune


@dataclass(frozen=True)
class Subject:
    """A model to measure: a name or folder, pruned on loading where `pruning` says so.

    `head` replaces the checkpoint's own head; the study measures every model with one for two classes.
    """

    name: str
    pruning: PruneConfig | None = None
    head: Head | None = None


def serve(connection: Connection, subject: Subject, batch_size: int, length: int, threads: int, seed: int) -> None:
    """Runs in a fresh process: loads the subject, then times a round at each request until told to stop.

    Every answer is ("done", value), or ("failed", exception) for the asker to raise.
    """
    torch.set_num_threads(threads)
    answers: dict[str, Any] = {}
    try:
        baseline = peak_memory()
        torch.manual_seed(seed)
        model = models.load_model(subject.name, subject.head)
        if subject.pruning:
            prune(model, subject.pruning)
        batch = _random_batch(model, batch_size, length)
        answers = {"inference": lambda: _infer(model, batch), "training": lambda: _train(model, batch)}
        connection.send(("done", _sizes(model)))
        while (request := connection.recv()) != "stop":
            connection.send(("done", (answers[request](), peak_memory() - baseline)))
    except EOFError:
        pass  # the asker is gone
    except Exception as error:
        connection.send(("failed", error))


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


def _sizes(model: PreTrainedModel) -> dict[str, int]:
    """Bytes of the parameters in memory, and of the checkpoint's weight files on disk."""
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with tempfile.TemporaryDirectory(prefix="aerogel-") as scratch, quiet_transformers():
        model.save_pretrained(scratch)
        files = sum(path.stat().st_size for path in Path(scratch).glob("*.safetensors"))
    return {"parameter_bytes": parameters, "file_bytes": files}
