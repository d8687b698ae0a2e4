"""Every model's predictions as logits: of all that it predicts, without padding, and comparable by one divergence."""

import copy

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence as torch_kl
from transformers import CLIPConfig, CLIPModel, PreTrainedModel

from aerogel.errors import ModelError
from aerogel.models import prunable_weights
from aerogel.models.logits import kl_divergence, prediction_logits
from aerogel.pruning import prune
from aerogel.pruning.batches import Batch, decoder_inputs, unpadded_rows
from heads import HEADS, MODELS, inputs
from tiny import tiny_config, tiny_inputs


def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return prediction_logits(model, batch)


def divergences(name: str) -> tuple[PreTrainedModel, PreTrainedModel, Batch, Tensor]:
    """A model, the pruned one, a batch, and the divergence of each prediction."""
    model = MODELS[name]()
    pruned = copy.deepcopy(model)
    prune(pruned, sparsity=0.7)
    batch = inputs(model)
    return model, pruned, batch, kl_divergence(logits(model, batch), logits(pruned, batch))


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=5))
def test_a_label_with_logit_z_is_a_prediction_of_two_classes(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = torch.tensor(pairs).T
    two = [torch.stack([torch.zeros_like(z), z], -1) for z in (ours, theirs)]
    expected = torch_kl(Bernoulli(logits=ours.double()), Bernoulli(logits=theirs.double()))
    torch.testing.assert_close(kl_divergence(*two).double(), expected, rtol=1e-3, atol=1e-5)


def test_several_labels_are_the_sum_of_their_divergences() -> None:
    model, pruned, batch, kls = divergences("several labels")
    with torch.no_grad():
        z = [Bernoulli(logits=of(**batch).logits) for of in (model, pruned)]
    expected = torch_kl(*z)
    assert expected.sum() > 1e-3
    torch.testing.assert_close(kls.view(4, 3), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["a value", "several values"])
def test_values_are_means_of_gaussians(name: str) -> None:
    model, pruned, batch, kls = divergences(name)
    with torch.no_grad():
        means = [Normal(of(**batch).logits, 1.0) for of in (model, pruned)]
    torch.testing.assert_close(kls, torch_kl(*means).flatten())


def test_hidden_states_are_means_of_gaussians_over_tokens() -> None:
    model, pruned, batch, kls = divergences("body")
    with torch.no_grad():
        states = [of(**batch).last_hidden_state for of in (model, pruned)]
    distances = (states[0] - states[1]).square()[batch["attention_mask"].bool()].flatten() / 2
    torch.testing.assert_close(kls, distances)
    assert len(kls) == batch["attention_mask"].sum() * model.config.hidden_size


def test_a_span_is_a_start_and_an_end_among_the_tokens() -> None:
    model, _, batch, kls = divergences("span")
    probabilities = logits(model, batch).softmax(-1)
    padding = batch["attention_mask"].repeat(2, 1) == 0
    assert padding.any()
    assert probabilities[padding].max() < 1e-30
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(8))
    with torch.no_grad():
        expected = model(**batch)
    torch.testing.assert_close(probabilities[0], expected.start_logits[0].softmax(-1))  # the longest has no padding
    torch.testing.assert_close(probabilities[4], expected.end_logits[0].softmax(-1))
    assert torch.isfinite(kls).all()
    assert logits(model, batch).half().isfinite().all()


@pytest.mark.parametrize("name", [name for name in HEADS if "speech" not in name and "replaced" not in name])
def test_padding_changes_no_prediction(name: str) -> None:
    model = MODELS[name]()
    batch = inputs(model)
    batch |= decoder_inputs(model, batch, None)
    together = logits(model, batch)
    alone = [logits(model, row) for row in unpadded_rows(batch)]
    if "span" in name:  # starts, then ends, each with as many classes as the text has tokens
        alone = [torch.nn.functional.pad(part, (0, 12 - part.shape[1]), value=-1e4) for part in alone]
        alone = [part[index][None] for index in range(2) for part in alone]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)


def test_replaced_tokens_are_predictions_of_two_classes_without_padding() -> None:
    model = MODELS["replaced words"]()
    batch = inputs(model)
    found = logits(model, batch)
    with torch.no_grad():
        z = model(**batch).logits[batch["attention_mask"].bool()]
    assert torch.equal(found, torch.stack([torch.zeros_like(z), z], -1))


def test_the_model_is_in_evaluation_mode_only_meanwhile() -> None:
    model = MODELS["tokens"]().train()
    batch = inputs(model)
    assert torch.equal(logits(model, batch), logits(model, batch))
    assert all(module.training for module in model.modules())


def test_other_outputs_are_refused_with_the_class_and_its_fields() -> None:
    model = CLIPModel(tiny_config(CLIPConfig)).eval()
    assert prunable_weights(model)
    with pytest.raises(ModelError, match=r"CLIPModel.*logits_per_image \(2, 2\).*text_embeds"):
        logits(model, tiny_inputs(model))
    bert = MODELS["classes"]()
    bert.config.return_dict = False
    with pytest.raises(ModelError, match=r"BertForSequenceClassification.*tuple"):
        logits(bert, inputs(bert))
