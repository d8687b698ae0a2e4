"""Calibrated pruning as a whole: on every family, exactly, repeatably, in the order that the methods promise."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import BertForPreTraining

from aerogel import progress
from aerogel.errors import ModelError, PruningError
from aerogel.evaluation import evaluate
from aerogel.models import Head, load, load_tokenizer, prunable_weights
from aerogel.pruning import METHODS, Calibration, Pattern, prune
from aerogel.pruning.blocks import walk
from aerogel.tasks import load_task
from aerogel.training import GradualPruning
from builders import BERT_LIKE, prose, text_data

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


# refusals


@pytest.mark.parametrize(
    ("settings", "needy"),
    [
        (dict(method="best"), "method best"),
        (dict(method="wanda", allocation="search"), "method wanda"),
        (dict(method="magnitude", swap=True), "swap"),
        (dict(reconstruct=1), "reconstruct"),
        (dict(allocation="search"), "allocation search"),
    ],
)
def test_without_text_the_error_says_what_is_needed(settings: dict[str, Any], needy: str) -> None:
    model, _ = load("tiny-gpt2")
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    with pytest.raises(PruningError, match=f"^{needy} needs calibration text: .*calibration=aerogel.calibration"):
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
    found = next(walked).moments[f"deberta.encoder.layer.0.attention.self.{name}"]
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


def test_a_model_without_predictions_is_refused_with_what_it_outputs() -> None:
    both = BertForPreTraining(load("tiny-bert")[0].config).eval()
    before = {name: value.clone() for name, value in both.state_dict().items()}
    with pytest.raises(ModelError, match=r"BertForPreTraining .*prediction_logits .*seq_relationship_logits"):
        prune(both, method="best", sparsity=0.5, calibration=manual("tiny-bert", 4))
    assert all(torch.equal(value, before[name]) for name, value in both.state_dict().items())
    prune(both, method="admm", sparsity=0.5, calibration=manual("tiny-bert", 4))


GPU_SETTINGS = [
    *({"method": method, "sparsity": 0.5} for method in METHODS),
    *({"method": "best", "pattern": pattern, "sparsity": 0.5} for pattern in ("2:4", "block:1x4")),
    {"method": "wanda", "sparsity": 0.5, "swap": True},
    {"method": "admm", "pattern": "2:4", "swap": True},
    {"method": "wanda", "sparsity": 0.5, "reconstruct": 1},
    {"method": "wanda", "sparsity": 0.5, "allocation": "owl"},
    {"method": "best", "sparsity": 0.5, "pattern": "block:1x4", "values": "int8"},
]


@pytest.mark.gpu
@pytest.mark.parametrize("settings", GPU_SETTINGS, ids=lambda settings: " ".join(map(str, settings.values())))
def test_a_gpu_agrees_with_the_cpu(settings: dict[str, Any]) -> None:
    kls, masks = [], []
    for device in ("cpu", "cuda"):
        model, tokenizer = load("tiny-bert")
        masks.append(prune(model.to(device), calibration=manual("tiny-bert", 4), **settings))
        assert {mask.device.type for mask in masks[-1].values()} == {device}
        found = evaluate(model.cpu(), tokenizer, [MANUAL], limit=8, reference=load("tiny-bert")[0])
        kls.append(found["python-reference"]["kl"])
    agreeing = sum(int((mask == masks[1][name].cpu()).sum()) for name, mask in masks[0].items())
    assert agreeing > 0.95 * sum(mask.numel() for mask in masks[0].values())
    assert kls[1] == pytest.approx(kls[0], rel=0.05)
