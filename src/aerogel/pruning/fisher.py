"""The Fisher information at the outputs of linear layers: the sensitivity of a model's predictions to each output."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
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
    generator = torch.Generator().manual_seed(seed)
    sums = {weight.name: torch.zeros(len(weight.matrix)) for weight in weights}
    counts = dict.fromkeys(sums, 0)
    with _accumulated_gradients(model, weights, sums, counts):
        for row in progress.track(subsample(batches, tokens), "computing output gradients"):
            with torch.enable_grad():
                sampled_nll(prediction_logits(model, row).float(), generator).backward()
    return {name: (total / max(1, counts[name])).sqrt() for name, total in sums.items()}


def sampled_nll(logits: Tensor, generator: torch.Generator) -> Tensor:
    """The sum of −log p(y) over predictions, up to a constant, with each y drawn from the model's own distribution.

    `logits` are (predictions, classes). A single logit is the mean of a Gaussian with variance 1.
    """
    if logits.shape[-1] == 1:
        return (logits - (logits.detach() + torch.randn(logits.shape, generator=generator))).square().sum() / 2
    log_p = torch.log_softmax(logits, -1)
    return -log_p.gather(1, torch.multinomial(log_p.detach().exp(), 1, generator=generator)).sum()


@contextmanager
def _accumulated_gradients(
    model: PreTrainedModel, weights: Sequence[PrunableWeight], sums: dict[str, Tensor], counts: dict[str, int]
) -> Iterator[None]:
    """Adds squared gradients at the outputs of linear layers to `sums`, and their number of tokens to `counts`.

    Parameters get no gradients meanwhile.
    """

    def register(weight: PrunableWeight) -> torch.utils.hooks.RemovableHandle:
        def add(gradient: Tensor) -> None:
            sums[weight.name] += gradient.reshape(-1, gradient.shape[-1]).square().sum(0)
            counts[weight.name] += gradient[..., 0].numel()

        def hook(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
            output = _differentiable(output)
            output.register_hook(add)
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
