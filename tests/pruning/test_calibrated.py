"""Calibrated pruning as a whole: on every family, exactly, repeatably, in the order that the methods promise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import ModelError, PruningError
from aerogel.evaluation import evaluate
from aerogel.models import Head, PrunableWeight, load, load_tokenizer, prunable_weights
from aerogel.models.logits import kl_divergence, prediction_logits
from aerogel.pruning import Calibration, Pattern, prune
from aerogel.pruning.blocks import walk
from aerogel.pruning.fisher import output_gradients, sampled_nll
from aerogel.pruning.kl import Reference, subsample
from aerogel.tasks import load_task
from aerogel.training import GradualPruning
from builders import ARCHITECTURES, BERT_LIKE, prose, text_data

TINY = ["tiny-bert", "tiny-gpt2", "tiny-bart"]
MANUAL = load_task("python-reference")


def manual(name: str, samples: int = 24) -> Calibration:
    return Calibration(MANUAL, load_tokenizer(name), samples, 128)


def pruned(name: str, **settings: Any) -> dict[str, float]:
    """The metrics of a pruned tiny model beside the dense one, on text that it was not calibrated on."""
    model, tokenizer = load(name)
    prune(model, calibration=manual(name), **settings)
    return evaluate(model, tokenizer, [MANUAL], limit=12, reference=load(name)[0])["python-reference"]


@pytest.mark.parametrize("name", TINY)
def test_the_methods_come_in_order(name: str) -> None:
    methods = ("random", "magnitude", "sparsegpt", "admm", "best")
    kls = [pruned(name, method=method, sparsity=0.6)["kl"] for method in methods]
    assert kls == sorted(kls, reverse=True)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "best"])
@pytest.mark.parametrize("pattern", ["2:4", "block:4x1"])
def test_patterns_hold_in_the_model(method: str, pattern: str) -> None:
    model, _ = load("tiny-gpt2")
    masks = prune(model, method=method, pattern=pattern, sparsity=0.5, calibration=manual("tiny-gpt2", 4))
    zeros = 0
    for weight in prunable_weights(model):
        assert torch.equal(weight.matrix != 0, masks[weight.name] & (weight.matrix != 0))
        zeros += int((~masks[weight.name]).sum())
        if pattern == "2:4":
            assert (masks[weight.name].view(-1, 4).sum(1) == 2).all()
        else:
            blocks = masks[weight.name].view(-1, 4, weight.matrix.shape[1]).sum(1)
            assert set(blocks.unique().tolist()) <= {0, 4}
    assert zeros == sum(weight.matrix.numel() for weight in prunable_weights(model)) // 2


def test_the_same_seed_gives_the_same_bits_and_another_allocation_the_same_zeros() -> None:
    def state(**settings: Any) -> dict[str, Tensor]:
        model, _ = load("tiny-gpt2")
        prune(model, method="best", sparsity=0.5, calibration=manual("tiny-gpt2", 8), **settings)
        return {weight.name: weight.matrix for weight in prunable_weights(model)}

    first, again, uniform = state(), state(), state(allocation="uniform")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], uniform[name]) for name in first)
    kept = [sum(int((matrix != 0).sum()) for matrix in found.values()) for found in (first, uniform)]
    assert kept[0] == kept[1]


def test_swap_and_reconstruction_lower_the_kl_of_a_simple_method() -> None:
    plain = pruned("tiny-gpt2", method="magnitude", sparsity=0.6)["kl"]
    assert pruned("tiny-gpt2", method="magnitude", sparsity=0.6, swap=True)["kl"] < plain
    assert pruned("tiny-gpt2", method="magnitude", sparsity=0.6, reconstruct=2)["kl"] < plain


@pytest.mark.parametrize("allocation", ["owl", "progression", "search"])
def test_every_allocation_has_the_exact_total(allocation: str) -> None:
    model, _ = load("tiny-bart")
    masks = prune(model, method="ria", sparsity=0.55, allocation=allocation, calibration=manual("tiny-bart", 4))
    sizes = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.55 * sizes)
    assert len({round(float(mask.float().mean()), 3) for mask in masks.values()}) > 1


def test_a_classifier_is_pruned_without_labels() -> None:
    model, _ = load("tiny-bert", Head("classification", ("sad", "glad")))
    head = model.classifier.weight.clone()
    prune(model, method="best", sparsity=0.5, calibration=manual("tiny-bert", 4))
    assert torch.equal(model.classifier.weight, head)
    zeros = sum(int((weight.matrix == 0).sum()) for weight in prunable_weights(model))
    assert zeros >= sum(weight.matrix.numel() for weight in prunable_weights(model)) // 2


def test_an_interrupt_passes_through_and_leaves_the_model_usable() -> None:
    model, _ = load("tiny-gpt2")

    def stop(doing: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress.listening(stop):
        prune(model, method="wanda", sparsity=0.5, calibration=manual("tiny-gpt2", 4))
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert model.config.use_cache
    prune(model, method="wanda", sparsity=0.5, calibration=manual("tiny-gpt2", 4))


# what is measured


def test_the_divergence_is_the_sum_over_words() -> None:
    first, second = torch.randn(5, 7), torch.randn(5, 7)
    p, q = first.softmax(-1), second.softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(kl_divergence(first, second), expected, rtol=1e-4, atol=1e-5)
    assert kl_divergence(first, first).abs().max() < 1e-6


def test_the_reference_does_not_move_with_the_model() -> None:
    model, _ = load("tiny-gpt2")
    reference = Reference(model, manual("tiny-gpt2", 4).batches(model), 256)
    assert reference.kl(model) < 1e-4
    prune(model, sparsity=0.8)
    assert reference.kl(model) > 0.1


@pytest.mark.parametrize("name", ["gpt2", "bert", "bart", "t5"])
def test_gradients_are_those_of_autograd_and_leave_nothing_behind(name: str) -> None:
    model = ARCHITECTURES[name].build()
    tokenizer = load_tokenizer("tiny-gpt2" if name == "gpt2" else "tiny-bart")
    batches = Calibration(text_data(prose(100)), tokenizer, 3, 32).batches(model)
    weights = prunable_weights(model)
    found = output_gradients(model, weights, batches, 10_000, seed=0)
    assert set(found) == {weight.name for weight in weights}
    for weight in weights:
        assert found[weight.name].shape == (len(weight.matrix),)
        assert found[weight.name].isfinite().all()
        assert weight.parameter.requires_grad
        assert weight.parameter.grad is None
        assert not weight.module._forward_hooks
    assert any(values.max() > 0 for values in found.values())
    again = output_gradients(model, weights, batches, 10_000, seed=0)
    assert all(torch.equal(found[name], again[name]) for name in found)
    for name, values in by_autograd(model, weights, subsample(batches, 10_000)).items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-8)


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
        found = prediction_logits(model, text)
        drawn = torch.multinomial(found.detach().softmax(-1), 1, generator=generator)
        torch.nn.functional.cross_entropy(found, drawn[:, 0], reduction="sum").backward()
    gradients = {name: [output.grad.flatten(0, -2) for output in kept] for name, kept in outputs.items()}
    return {name: torch.cat(rows).square().mean(0).sqrt() for name, rows in gradients.items()}


def test_the_square_of_a_gradient_is_the_fisher_information() -> None:
    for logits, expected in (
        (torch.tensor([0.3]), torch.tensor([1.0])),  # a number: a Gaussian of variance 1
        (torch.tensor([0.8, 0.2]).log(), torch.tensor([0.16, 0.16])),  # p (1 − p)
    ):
        rows = logits.repeat(20_000, 1).requires_grad_()
        sampled_nll(rows, torch.Generator().manual_seed(0)).backward()
        torch.testing.assert_close(rows.grad.square().mean(0), expected, rtol=0.05, atol=0)


def test_a_regression_output_has_gradients_and_a_kl() -> None:
    model, _ = load("tiny-bert", Head("classification", ("similarity",)))
    batches = manual("tiny-bert", 2).batches(model)
    weights = prunable_weights(model)
    found = output_gradients(model, weights, batches, 256, seed=0)
    assert all(values.max() > 0 for values in found.values())
    reference = Reference(model, batches, 256)
    before = torch.cat([prediction_logits(model, batch).detach() for batch in reference.batches])
    assert reference.kl(model) == pytest.approx(0, abs=1e-6)
    prune(model, sparsity=0.8)
    after = torch.cat([prediction_logits(model, batch).detach() for batch in reference.batches])
    assert reference.kl(model) == pytest.approx(float((after - before).square().mean() / 2), rel=1e-2)


def test_logits_are_measured_without_dropout() -> None:
    model = ARCHITECTURES["bert"].build()
    batches = Calibration(text_data(prose(100)), load_tokenizer("tiny-bert"), 3, 32).batches(model)
    quiet = Reference(model, batches, 10_000)
    model.train()
    model.bert.embeddings.eval()
    found = Reference(model, batches, 10_000)
    assert all(torch.equal(one, other) for one, other in zip(quiet.logits, found.logits, strict=True))
    assert found.kl(model) < 1e-4
    modes = {name: module.training for name, module in model.named_modules()}
    assert all(mode != name.startswith("bert.embeddings") for name, mode in modes.items())


def test_a_few_texts_are_spread_over_all() -> None:
    batches = [{"input_ids": torch.full((4, 8), index)} for index in range(5)]
    chosen = subsample(batches, 5 * 8)
    assert [int(row["input_ids"][0, 0]) for row in chosen] == [0, 1, 2, 3, 4]
    assert len(subsample(batches, 10_000)) == 20
    assert len(subsample(batches, 1)) == 1


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
    found, others = (output_gradients(model, weights, batches, 10_000, seed=0) for batches in (rows, padded))
    for name, values in found.items():
        torch.testing.assert_close(others[name], values, rtol=1e-4, atol=1e-7)


# refusals


@pytest.mark.parametrize(
    "settings", [dict(method="wanda"), dict(method="magnitude", swap=True), dict(allocation="search")]
)
def test_without_text_the_error_says_what_is_needed(settings: dict[str, Any]) -> None:
    model, _ = load("tiny-gpt2")
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    with pytest.raises(PruningError, match=f"{settings.get('allocation', settings.get('method'))} .*calibration text"):
        prune(model, sparsity=0.5, **settings)
    assert all(torch.equal(weight.matrix, before[weight.name]) for weight in prunable_weights(model))


def test_contradictions_are_refused() -> None:
    model, _ = load("tiny-gpt2")
    with pytest.raises(PruningError, match=r"scope global .*allocation owl"):
        prune(model, sparsity=0.5, scope="global", allocation="owl")
    with pytest.raises(PruningError, match=r"allocation 'serch': .*search"):
        prune(model, sparsity=0.5, allocation="serch")
    with pytest.raises(PruningError, match=r"2:4 .*uniform"):
        prune(model, method="best", pattern="2:4", allocation="owl", calibration=manual("tiny-gpt2", 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reconstruction_in_half_precision_is_refused(dtype: torch.dtype) -> None:
    model = load("tiny-gpt2")[0].to(dtype)
    with pytest.raises(PruningError, match=rf"layer transformer\.h\.0\..*float32.* {str(dtype)[6:]}"):
        prune(model, method="wanda", sparsity=0.5, reconstruct=1, calibration=manual("tiny-gpt2", 4))
    with pytest.raises(PruningError, match="-1 epochs"):
        prune(model, sparsity=0.5, reconstruct=-1)


def test_a_rounded_sparsity_is_that_of_the_pattern() -> None:
    sizes = dict(hidden_size=48, intermediate_size=12_000, num_hidden_layers=1)  # so that the rounding is a weight's
    model = transformers.BertForMaskedLM(transformers.BertConfig(**BERT_LIKE | sizes)).eval()
    text = Calibration(text_data(prose(200)), load_tokenizer("tiny-bart"), 6, 32)
    settings = dict(method="admm", pattern="1:3", sparsity=0.6666657, exclude=("*.output.dense",))
    masks = prune(model, calibration=text, **settings)
    assert all((mask.view(-1, 3).sum(1) == 1).all() for mask in masks.values())
    assert GradualPruning.of(sparsity=0.6666657, pattern="1:3").sparsity == Pattern.parse("1:3").fixed_sparsity


@pytest.mark.parametrize("shared", [False, True])
def test_layers_that_see_more_than_the_text_are_pruned_on_all_of_it(shared: bool) -> None:
    config = transformers.DebertaV2Config(
        **BERT_LIKE, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=shared
    )
    torch.manual_seed(0)
    model, tokenizer = transformers.DebertaV2ForMaskedLM(config).eval(), load_tokenizer("tiny-bart")
    batches = Calibration(text_data(prose(200)), tokenizer, 6, 32).batches(model)
    name = "query_proj" if shared else "pos_query_proj"
    seen: list[Tensor] = []
    layer = getattr(model.deberta.encoder.layer[0].attention.self, name)
    handle = layer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].flatten(0, -2)))
    with torch.no_grad():
        model(**batches[0])
    handle.remove()
    walked = walk(model, prunable_weights(model), batches, True, "test")
    found = next(walked).moments[f"deberta.encoder.layer.0.attention.self.{name}"].sums
    inputs = torch.cat(seen)
    assert len(seen) == 1 + shared
    torch.testing.assert_close(found, inputs.T @ inputs)
    masks = prune(model, method="best", sparsity=0.5, calibration=Calibration(text_data(prose(200)), tokenizer, 6, 32))
    assert sum(int(mask.sum()) for mask in masks.values()) * 2 == sum(mask.numel() for mask in masks.values())


@pytest.mark.parametrize("method", ["wanda", "best"])
def test_weights_outside_the_blocks_are_refused_before_anything_is_computed(method: str) -> None:
    model, _ = load("tiny-gpt2")
    steps: list[str] = []
    with (
        progress.listening(lambda doing, *_: steps.append(doing)),
        pytest.raises(ModelError, match=r"layer transformer\.wte "),
    ):
        prune(model, method=method, sparsity=0.5, targets=("blocks", "embeddings"), calibration=manual("tiny-gpt2", 4))
    assert not steps


def test_a_model_without_a_head_has_no_predictions() -> None:
    body = load("tiny-gpt2")[0].base_model
    with pytest.raises(ModelError, match="GPT2Model has no head"):
        prune(body, method="best", sparsity=0.5, calibration=manual("tiny-gpt2", 4))
    prune(body, method="admm", sparsity=0.5, calibration=manual("tiny-gpt2", 4))
