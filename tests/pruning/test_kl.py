"""The KL divergence to the dense model: against its definition, and only for changes of the weights."""

import pytest
import torch

from aerogel.models import Head, load, load_tokenizer, prunable_weights
from aerogel.models.logits import kl_divergence, prediction_logits
from aerogel.pruning import Calibration, prune
from aerogel.pruning.batches import subsample
from aerogel.pruning.fisher import output_gradients
from aerogel.pruning.kl import Reference
from aerogel.tasks import load_task
from builders import ARCHITECTURES, prose, text_data

MANUAL = load_task("python-reference")


def test_the_divergence_is_the_sum_over_words() -> None:
    first, second = torch.randn(5, 7), torch.randn(5, 7)
    p, q = first.softmax(-1), second.softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(kl_divergence(first, second), expected, rtol=1e-4, atol=1e-5)
    assert kl_divergence(first, first).abs().max() < 1e-6


def test_the_reference_does_not_move_with_the_model() -> None:
    model, _ = load("tiny-gpt2")
    reference = Reference(model, Calibration(MANUAL, load_tokenizer("tiny-gpt2"), 4, 128).batches(model), 256)
    assert reference.kl(model) < 1e-4
    prune(model, sparsity=0.8)
    assert reference.kl(model) > 0.1


def test_logits_are_measured_without_dropout() -> None:
    model = ARCHITECTURES["bert"].build()
    batches = Calibration(text_data(prose(100)), load_tokenizer("tiny-bert"), 3, 32).batches(model)
    evaluated = Reference(model, batches, 10_000)
    model.train()
    model.bert.embeddings.eval()
    training = Reference(model, batches, 10_000)
    assert all(torch.equal(one, other) for one, other in zip(evaluated.logits, training.logits, strict=True))
    assert training.kl(model) < 1e-4
    modes = {name: module.training for name, module in model.named_modules()}
    assert all(mode != name.startswith("bert.embeddings") for name, mode in modes.items())


def test_a_few_texts_are_spread_over_all() -> None:
    batches = [{"input_ids": torch.full((4, 8), index)} for index in range(5)]
    chosen = subsample(batches, 5 * 8)
    assert [int(row["input_ids"][0, 0]) for row in chosen] == [0, 1, 2, 3, 4]
    assert len(subsample(batches, 10_000)) == 20
    assert len(subsample(batches, 1)) == 1


def test_a_regression_output_has_gradients_and_a_kl() -> None:
    model, tokenizer = load("tiny-bert", Head("classification", ("similarity",)))
    batches = Calibration(MANUAL, tokenizer, 2, 128).batches(model)
    gradients = output_gradients(model, prunable_weights(model), batches, 256, seed=0)
    assert all(values.max() > 0 for values in gradients.values())
    reference = Reference(model, batches, 256)
    before = torch.cat([prediction_logits(model, batch).detach() for batch in reference.batches])
    assert reference.kl(model) == pytest.approx(0, abs=1e-6)
    prune(model, sparsity=0.8)
    after = torch.cat([prediction_logits(model, batch).detach() for batch in reference.batches])
    assert reference.kl(model) == pytest.approx(float((after - before).square().mean() / 2), rel=1e-2)
