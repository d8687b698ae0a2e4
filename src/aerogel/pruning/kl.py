"""What a model answers on calibration text: how far that moved from the dense model, and what it hangs on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import ModelError
from aerogel.models import PrunableWeight, head_kind
from aerogel.models.logits import kl_divergence, prediction_logits
from aerogel.pruning.calibration import Batch


def sampled_nll(logits: Tensor, generator: torch.Generator) -> Tensor:
    """The sum of −log p(y) over answers, but for a constant, with each y drawn from the model's own answer."""
    if logits.shape[-1] == 1:
        return (logits - (logits.detach() + torch.randn(logits.shape, generator=generator))).square().sum() / 2
    found = torch.log_softmax(logits, -1)
    return -found.gather(1, torch.multinomial(found.detach().exp(), 1, generator=generator)).sum()


class Reference:
    """The answers of the dense model on a little text, to measure against while weights change."""

    def __init__(self, model: PreTrainedModel, batches: Sequence[Batch], tokens: int) -> None:
        check_head(model)
        self.batches = subsample(batches, tokens)
        with torch.no_grad():
            self.answers = [prediction_logits(model, batch).to(torch.float16) for batch in self.batches]

    @torch.no_grad()
    def divergence(self, model: PreTrainedModel) -> float:
        """The mean KL(dense ‖ model), in nats an answer."""
        found = [
            kl_divergence(dense, prediction_logits(model, batch))
            for dense, batch in zip(self.answers, self.batches, strict=True)
        ]
        return float(torch.cat(found).mean())


def check_head(model: PreTrainedModel) -> None:
    if head_kind(model) == "none":
        raise ModelError(
            f"{type(model).__name__} has no head, and what pruning does to a model's answers is measured there: "
            "load it with one, or take another method or allocation"
        )


def subsample(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """Single texts out of all batches, without padding, evenly spread, that hold about so many tokens."""
    rows = [_one(batch, place) for batch in batches for place in range(len(batch["input_ids"]))]
    total = sum(row["input_ids"].numel() for row in rows)
    count = max(1, min(len(rows), round(len(rows) * tokens / total)))
    return [rows[place * len(rows) // count] for place in range(count)]


def _one(batch: Batch, place: int) -> Batch:
    row = {}
    for name, values in batch.items():
        mask = batch.get("decoder_attention_mask" if name.startswith("decoder_") else "attention_mask")
        length = None if mask is None else int(mask[place].sum())  # padding is on the right
        row[name] = values[place : place + 1, :length]
    return row


def output_gradients(
    model: PreTrainedModel, weights: Sequence[PrunableWeight], batches: Sequence[Batch], tokens: int, seed: int
) -> dict[str, Tensor]:
    """How much the model's answers hang on each output of each matrix: (d_out) by weight name.

    The root mean square, over tokens, of the gradient of −log p(y) at the output, with y drawn from the model's own
    answers: then its square is the diagonal of the Fisher information, which is the curvature of the KL divergence
    to the dense model (Martens and Grosse 2015, section 2.2). No labels are needed.
    """
    check_head(model)
    generator = torch.Generator().manual_seed(seed)
    sums = {weight.name: torch.zeros(len(weight.matrix)) for weight in weights}
    counts = dict.fromkeys(sums, 0)
    with _gradients_at(model, weights, sums, counts):
        for row in progress.track(subsample(batches, tokens), "weighing outputs"):
            with torch.enable_grad():
                sampled_nll(prediction_logits(model, row).float(), generator).backward()
    return {name: (total / max(1, counts[name])).sqrt() for name, total in sums.items()}


def _differentiable(output: Any) -> Any:
    """The tensor, or a copy that gradients flow to, which may be written to as if none did; else what it is."""
    if not isinstance(output, Tensor) or output.requires_grad:
        return output
    return output.requires_grad_().clone()


@contextmanager
def _gradients_at(
    model: PreTrainedModel, weights: Sequence[PrunableWeight], sums: dict[str, Tensor], counts: dict[str, int]
) -> Iterator[None]:
    """Adds up squared gradients at the outputs of linear layers, and counts the tokens that they are of.

    Meanwhile no parameter collects a gradient of its own.
    """
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def watch(weight: PrunableWeight) -> torch.utils.hooks.RemovableHandle:
        def add(gradient: Tensor) -> None:
            sums[weight.name] += gradient.reshape(-1, gradient.shape[-1]).square().sum(0)
            counts[weight.name] += gradient[..., 0].numel()

        def hook(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
            output = _differentiable(output)
            output.register_hook(add)
            return output

        return weight.module.register_forward_hook(hook)

    handles = [watch(weight) for weight in weights]
    handles += [  # with no parameter to learn, gradients need another place to flow to
        entry.register_forward_hook(lambda module, arguments, output: _differentiable(output))
        for entry in model.modules()
        if isinstance(entry, nn.Embedding)
    ]
    try:
        for parameter in needed:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()
