"""The models to measure, and the functions that run in the measuring processes."""

import contextlib
import ctypes
import inspect
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from aerogel import models
from aerogel.benchmark.forward import default_measure
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

# A longer inference fills the caches by itself. A shorter one is timed after an untimed one, since other processes have
# used the caches in between.
WARM_UP = 0.3
BATCHES, BATCH_SIZE, LENGTH = 4, 4, 64  # of random tokens, by which structures are removed
ONE_CLASS = ("classification", "image-classification", "multiple-choice")  # heads with a prediction for each example


@dataclass(frozen=True)
class Subject:
    """A model to measure: a name or folder, and how to prune it after loading.

    `head` replaces the head of the checkpoint; a study measures every model with a classifier for two classes. `values`
    are those of `aerogel.compress`; `None` is what the checkpoint has. With `structure` heads and neurons are removed
    first, by random tokens: the time depends on the target, hardly on which ones are removed.

    >>> Subject("tiny-bert").name
    'tiny-bert'
    """

    name: str
    pruning: PruneConfig | None = None
    head: Head | None = None
    values: ValueChoice | None = None
    structure: StructureConfig | None = None

    def __post_init__(self) -> None:
        expect(self.name, str | os.PathLike, ModelError, "the name or folder of a model")
        object.__setattr__(self, "name", os.fspath(self.name))


@dataclass(frozen=True)
class Checkpoint:
    """A subject saved as it will be measured: dense, compressed, or converted for another `runtime`.

    `parameter_bytes` are parameters and buffers in memory, where weights that are not packed are float32. `file_bytes`
    are the weight files as `aerogel prune` writes them: in the dtypes of the model's own files.
    """

    name: str
    folder: Path
    compressed: bool
    parameter_bytes: int
    file_bytes: int
    runtime: str | None = None


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
    checkpoints = [_save(model, subject.name, scratch / "dense", dtypes, compressed=False)]
    if sparse_layers(compress(model, values, head_values)):
        checkpoints.append(_save(model, subject.name, scratch / "compressed", dtypes, compressed=True))
    connection.send(("done", checkpoints))


def serve(
    connection: Connection, checkpoint: Checkpoint, batch_size: int, length: int, threads: int, seed: int
) -> None:
    """Load the checkpoint, then time one round per request until "stop".

    The reply to a request is its seconds and the peak memory so far, above that of the process before loading.
    """
    torch.set_num_threads(threads)
    baseline = peak_memory()
    torch.manual_seed(seed)
    model = models.load_model(str(checkpoint.folder))
    batch = random_batch(model, batch_size, length)
    rounds = {"inference": _infer, "training": _train}
    connection.send(("done", None))
    seconds = WARM_UP
    while (request := connection.recv()) != "stop":
        if request == "inference" and seconds < WARM_UP:
            _infer(model, batch)
        seconds = rounds[request](model, batch)
        if request == "training":
            with contextlib.suppress(AttributeError):  # only glibc has this function
                ctypes.CDLL(None).malloc_trim(0)  # so that the next process that trains gets the freed memory
        connection.send(("done", (seconds, peak_memory() - baseline)))


def random_batch(model: PreTrainedModel, batch_size: int, length: int) -> dict[str, torch.Tensor]:
    """Random inputs whose blocks see `length` positions, with labels for a training step.

    Text is ids of ordinary tokens, of which a multiple-choice model gets one choice; a waveform has the samples of
    `length` frames. Images and spectrograms have the size in the model's configuration, and then `length` is that of
    the decoder, if there is one. Raises `ModelError` for a longer text than the model takes, and for other inputs.
    """
    config, main = model.config, model.main_input_name
    if main == "input_ids":
        batch = _random_text(model, batch_size, length)
    elif main == "pixel_values" and hasattr(config, "image_size"):
        sides = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
        batch = {main: torch.randn(batch_size, getattr(config, "num_channels", 3), *sides)}
    elif main == "input_values" and hasattr(config, "conv_stride"):
        batch = {main: torch.randn(batch_size, _samples(config, length))}
    elif main == "input_features" and hasattr(config, "max_source_positions"):
        frames = 2 * config.max_source_positions  # the encoder's second convolution has stride 2
        batch = {main: torch.randn(batch_size, config.num_mel_bins, frames)}
    else:
        raise ModelError(f"{type(model).__name__} reads {main} of a size that its configuration does not have")
    kind, takes = models.head_kind(model), inspect.signature(model.forward).parameters
    if kind == "language-modelling" and main == "input_ids":
        batch["labels"] = batch[main]
    elif kind in ONE_CLASS and "labels" in takes and _predicts_classes(config):
        batch["labels"] = torch.zeros(batch_size, dtype=torch.long)
    elif "decoder_input_ids" in takes:
        batch["decoder_input_ids"] = batch[main] if main == "input_ids" else _random_tokens(config, batch_size, length)
    return batch


def _predicts_classes(config: PretrainedConfig) -> bool:
    """Whether an example has one class, not several labels or values."""
    problem = getattr(config, "problem_type", None)
    return problem == "single_label_classification" or (problem is None and config.num_labels > 1)


def _random_text(model: PreTrainedModel, batch_size: int, length: int) -> dict[str, torch.Tensor]:
    config = model.config
    ids = _random_tokens(config, batch_size, length)
    if config.is_encoder_decoder and config.eos_token_id is not None:
        ids[:, -1] = config.eos_token_id  # BART's classifier reads the state at the last end-of-sequence token
    if models.head_kind(model) == "multiple-choice":
        ids = ids[:, None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _random_tokens(config: PretrainedConfig, batch_size: int, length: int) -> torch.Tensor:
    positions = context_length(config) or getattr(config, "max_target_positions", None)
    if positions is not None and length > positions:
        raise ModelError(f"sequence length {length} exceeds the model's {positions} positions")
    return torch.randint(10, config.vocab_size, (batch_size, length))


def _samples(config: PretrainedConfig, frames: int) -> int:
    """The number of samples of which the convolutions of a speech encoder make this number of frames."""
    samples = frames
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def inference_inputs(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs of a forward pass without labels."""
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    if model.config.is_encoder_decoder and models.head_kind(model) == "language-modelling":
        inputs["decoder_input_ids"] = batch["labels"]
    return inputs


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


def _save(model: PreTrainedModel, name: str, folder: Path, dtypes: StoredDtypes, compressed: bool) -> Checkpoint:
    """Writes a checkpoint to measure: in float32, but packed values that were not rounded have the `dtypes`."""
    in_memory = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    for path, layer in sparse_layers(model):
        if layer.values.dtype == torch.float32:
            layer.to(dtypes.of_tensor(f"{path}.weight"))
    with quiet_transformers():
        model.save_pretrained(folder)
    return Checkpoint(name, folder, compressed, in_memory, dtypes.size(folder))
