"""Output gradients: against autograd and the Fisher information."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel.errors import PruningError
from aerogel.models import PrunableWeight, load_tokenizer, prunable_weights
from aerogel.models.logits import prediction_logits
from aerogel.pruning import Calibration
from aerogel.pruning.batches import subsample
from aerogel.pruning.fisher import output_fisher, output_gradients, sampled_nll
from builders import ARCHITECTURES, prose, text_data


@pytest.mark.parametrize("name", ["gpt2", "bert", "bart", "t5"])
def test_gradients_are_those_of_autograd_and_leave_nothing_behind(name: str) -> None:
    model = ARCHITECTURES[name].build()
    tokenizer = load_tokenizer("tiny-gpt2" if name == "gpt2" else "tiny-bart")
    batches = Calibration(text_data(prose(100)), tokenizer, 3, 32).batches(model)
    weights = prunable_weights(model)
    gradients = output_gradients(model, weights, batches, 10_000, seed=0)
    assert set(gradients) == {weight.name for weight in weights}
    for weight in weights:
        assert gradients[weight.name].shape == (len(weight.matrix),)
        assert gradients[weight.name].isfinite().all()
        assert weight.parameter.requires_grad
        assert weight.parameter.grad is None
        assert not weight.module._forward_hooks
    assert any(values.max() > 0 for values in gradients.values())
    again = output_gradients(model, weights, batches, 10_000, seed=0)
    assert all(torch.equal(gradients[name], again[name]) for name in gradients)
    for name, values in by_autograd(model, weights, subsample(batches, 10_000)).items():
        torch.testing.assert_close(gradients[name], values, rtol=1e-3, atol=1e-8)


def by_autograd(
    model: PreTrainedModel, weights: list[PrunableWeight], texts: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The root mean square gradients, kept with the outputs themselves."""
    generator = torch.Generator().manual_seed(0)
    outputs: dict[str, list[Tensor]] = {weight.name: [] for weight in weights}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: object, output: Tensor) -> None:
            output.retain_grad()
            outputs[name].append(output)

        return hook

    for weight in weights:
        weight.module.register_forward_hook(keep(weight.name))
    for text in texts:
        sampled_nll(prediction_logits(model, text), generator).backward()
    gradients = {name: [output.grad.flatten(0, -2) for output in kept] for name, kept in outputs.items()}
    return {name: torch.cat(rows).square().mean(0).sqrt() for name, rows in gradients.items()}


def test_the_square_of_a_gradient_is_the_fisher_information() -> None:
    for logits, expected in (
        (torch.tensor([0.3]), torch.tensor([1.0])),  # a number: a Gaussian of variance 1
        (torch.tensor([0, 0.8, 0.2, 0]).log(), torch.tensor([0, 0.16, 0.16, 0])),  # p (1 − p)
    ):
        rows = logits.repeat(20_000, 1).requires_grad_()
        sampled_nll(rows, torch.Generator().manual_seed(0)).backward()
        torch.testing.assert_close(rows.grad.square().mean(0), expected, rtol=0.05, atol=0)


def test_predictions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(PruningError, match="predictions on the calibration text are not all finite"):
        sampled_nll(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), torch.Generator())


def test_gradients_are_means_over_tokens_whatever_is_padded() -> None:
    model = ARCHITECTURES["bart"].build()
    weights = prunable_weights(model)
    ids = torch.arange(10, 22).view(2, 6)
    rows = [{"input_ids": row[None], "decoder_input_ids": row[None]} for row in ids]
    padded = [
        {name: torch.nn.functional.pad(values, (0, 3), value=1) for name, values in row.items()}
        | {f"{side}attention_mask": torch.tensor([[1] * 6 + [0] * 3]) for side in ("", "decoder_")}
        for row in rows
    ]
    first, second = (output_gradients(model, weights, batches, 10_000, seed=0) for batches in (rows, padded))
    for name, values in first.items():
        torch.testing.assert_close(second[name], values, rtol=1e-4, atol=1e-7)


def test_the_diagonal_of_the_fisher_information_is_the_mean_square_gradient() -> None:
    model = ARCHITECTURES["bert"].build()
    batches = Calibration(text_data(prose(100)), load_tokenizer("tiny-bart"), 3, 32).batches(model)
    weights = prunable_weights(model)
    gradients = output_gradients(model, weights, batches, 200, seed=0)
    for name, fisher in output_fisher(model, weights, batches, 200, seed=0).items():
        torch.testing.assert_close(fisher.diagonal().sqrt(), gradients[name], rtol=1e-4, atol=1e-10)
        assert torch.equal(fisher, fisher.T)
        assert torch.linalg.eigvalsh(fisher.double()).min() > -1e-6 * fisher.diagonal().sum()
