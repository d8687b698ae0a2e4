"""The Fisher information at the outputs of linear layers: the sensitivity of a model's predictions to each output."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import PruningError
from aerogel.models import PrunableWeight
from aerogel.models.logits import prediction_logits
from aerogel.models.mode import evaluating, frozen
from aerogel.pruning.batches import Batch, subsample


def output_gradients(
    model: PreTrainedModel, weights: Sequence[PrunableWeight], batches: Sequence[Batch], tokens: int, seed: int
) -> dict[str, Tensor]:
    """The root mean square gradient at each output of each matrix, on about `tokens` tokens: (d_out) by weight name.

    The gradient is that of −log p(y), with y drawn from the model's own predictions, so no labels are needed. Its mean
    square over tokens is the diagonal of the Fisher information, which is the curvature of the KL divergence to the
    dense model (Martens and Grosse 2015, section 2.2). Raises `ModelError` as `prediction_logits`.
    """
    sums = {weight.name: _zeros(weight, len(weight.matrix)) for weight in weights}

    def add(name: str, gradient: Tensor) -> None:
        sums[name] += gradient.square().sum(0)

    counts = _add_gradients(model, weights, batches, tokens, seed, add)
    return {name: (total / max(1, counts[name])).sqrt() for name, total in sums.items()}


def output_fisher(
    model: PreTrainedModel, weights: Sequence[PrunableWeight], batches: Sequence[Batch], tokens: int, seed: int
) -> dict[str, Tensor]:
    """The Fisher information at the outputs of each matrix: the mean of g gᵀ over tokens, (d_out, d_out) by name.

    Gradients g are those of `output_gradients`, whose squares are the diagonal.
    """
    sums = {weight.name: _zeros(weight, len(weight.matrix), len(weight.matrix)) for weight in weights}

    def add(name: str, gradient: Tensor) -> None:
        sums[name].addmm_(gradient.T, gradient)

    counts = _add_gradients(model, weights, batches, tokens, seed, add)
    return {name: total / max(1, counts[name]) for name, total in sums.items()}


def sampled_nll(logits: Tensor, generator: torch.Generator) -> Tensor:
    """The sum of −log p(y) over predictions, up to a constant, with each y drawn from the model's own distribution.

    `logits` are (predictions, classes). A single logit is the mean of a Gaussian with variance 1. The draws are made
    on the CPU, so that they are the same on every device. Raises `PruningError` for a prediction that is not finite.
    """
    if logits.shape[-1] == 1:
        noise = torch.randn(logits.shape, generator=generator).to(logits.device)
        return (logits - (logits.detach() + noise)).square().sum() / 2
    log_p = torch.log_softmax(logits, -1)
    # a uniform number for each row: torch.multinomial draws one for each class, and takes ten times as long
    sums = log_p.detach().cpu().exp().cumsum(-1)
    if not sums[:, -1].isfinite().all():
        raise PruningError("the model's predictions on the calibration text are not all finite")
    uniform = torch.rand(len(sums), 1, generator=generator) * sums[:, -1:]
    drawn = torch.searchsorted(sums, uniform, right=True).clamp(max=sums.shape[-1] - 1)
    return -log_p.gather(1, drawn.to(log_p.device)).sum()


def _zeros(weight: PrunableWeight, *shape: int) -> Tensor:
    return torch.zeros(shape, device=weight.parameter.device)


def _add_gradients(
    model: PreTrainedModel,
    weights: Sequence[PrunableWeight],
    batches: Sequence[Batch],
    tokens: int,
    seed: int,
    add: Callable[[str, Tensor], None],
) -> dict[str, int]:
    """Calls `add` with each weight's name and gradients (tokens, d_out), and returns the numbers of tokens by name."""
    generator = torch.Generator().manual_seed(seed)
    counts = {weight.name: 0 for weight in weights}

    def count_and_add(name: str, gradient: Tensor) -> None:
        flat = gradient.reshape(-1, gradient.shape[-1]).float()
        counts[name] += len(flat)
        add(name, flat)

    with _observed_gradients(model, weights, count_and_add):
        for row in progress.track(subsample(batches, tokens), "computing output gradients"):
            with torch.enable_grad():
                sampled_nll(prediction_logits(model, row).float(), generator).backward()
    return counts


@contextmanager
def _observed_gradients(
    model: PreTrainedModel, weights: Sequence[PrunableWeight], observe: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Calls `observe` with the gradient at the output of each linear layer. Parameters get no gradients meanwhile."""

    def register(weight: PrunableWeight) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
            output = _differentiable(output)
            output.register_hook(lambda gradient: observe(weight.name, gradient))
            return output

        return weight.module.register_forward_hook(hook)

    handles = [register(weight) for weight in weights]
    handles += [  # without trainable parameters, the graph of gradients starts at the embeddings
        module.register_forward_hook(lambda module, arguments, output: _differentiable(output))
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        with evaluating(model), frozen(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _differentiable(output: Any) -> Any:
    """A tensor that gradients flow to and that in-place operations may change; anything else as it is."""
    if not isinstance(output, Tensor) or output.requires_grad:
        return output
    return output.requires_grad_().clone()
