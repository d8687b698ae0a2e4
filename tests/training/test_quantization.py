"""Training with int8 values: the gradients, the weights that come out, and what is validated and saved meanwhile."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel, TrainerCallback
from transformers.pytorch_utils import Conv1D

from aerogel.errors import ModelError, PruningError
from aerogel.models import PrunableWeight, load, prunable_weights
from aerogel.models.int8 import quantize_rows, quantize_tokens, round_to_grid
from aerogel.pruning import prune
from aerogel.runtime import compress, decompress
from aerogel.training import GradualPruning, SparsityCallback, TrainingConfig, finetune
from aerogel.training.quantization import QuantizedTraining
from aerogel.training.schedule import quantized_from
from builders import ARCHITECTURES, batches, sentence_data, sentences, train

PRUNED: dict[str, Any] = dict(sparsity=0.9, score="movement")


def on_grid(matrix: Tensor) -> bool:
    return torch.allclose(round_to_grid(matrix), matrix, rtol=1e-6, atol=0)


def all_on_grid(model: nn.Module) -> list[bool]:
    return [on_grid(weight.matrix) for weight in prunable_weights(model)]


class Rounding(nn.Module):
    """Rounds the rows of a weight, which a Conv1D has as columns, with the gradient passed straight through."""

    def __init__(self, is_transposed: bool) -> None:
        super().__init__()
        self.is_transposed = is_transposed

    def forward(self, weight: Tensor) -> Tensor:
        integers, scales = quantize_rows(weight.T if self.is_transposed else weight)
        rounded = integers * scales[:, None]
        return weight + ((rounded.T if self.is_transposed else rounded) - weight).detach()


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_gradients_are_those_of_the_rounded_weights_and_inputs(name: str) -> None:
    model = ARCHITECTURES[name].build()
    reference = copy.deepcopy(model)
    for weight in prunable_weights(reference):
        parametrize.register_parametrization(weight.module, "weight", Rounding(isinstance(weight.module, Conv1D)))
        weight.module.register_forward_pre_hook(lambda module, inputs: (quantize_tokens(inputs[0]),))
    weights = prunable_weights(model)
    before = [weight.matrix.clone() for weight in weights]
    quantized = QuantizedTraining(weights)
    quantized.begin()
    batch = {key: torch.as_tensor(value)[None] for key, value in batches()[0].items()}
    outputs = [one(**batch) for one in (model, reference)]
    assert torch.allclose(outputs[0].logits, outputs[1].logits, atol=1e-6)
    assert not torch.allclose(outputs[0].logits, ARCHITECTURES[name].build()(**batch).logits, atol=1e-6)
    for output in outputs:
        output.loss.backward()
    expected = dict(reference.named_parameters())
    for parameter, gradient in ((key, value.grad) for key, value in model.named_parameters()):
        module, _, leaf = parameter.rpartition(".")
        original = expected.get(parameter, expected.get(f"{module}.parametrizations.{leaf}.original"))
        assert original is not None
        assert gradient is not None
        assert original.grad is not None
        assert torch.allclose(gradient, original.grad, atol=1e-6), parameter
    quantized.restore()
    assert all(torch.equal(weight.matrix, matrix) for weight, matrix in zip(weights, before, strict=True))


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("sparsity", [0.0, 0.8])
def test_trained_weights_are_those_of_integers_and_zeros_stay(tmp_path: Path, name: str, sparsity: float) -> None:
    model = ARCHITECTURES[name].build()
    masks = prune(model, sparsity=sparsity) if sparsity else {}
    names, before = list(model.state_dict()), {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    train(model, tmp_path, SparsityCallback(values="int8"), max_steps=8)
    assert all(all_on_grid(model))
    assert list(model.state_dict()) == names
    assert not any(weight.module._forward_pre_hooks for weight in prunable_weights(model))
    for weight in prunable_weights(model):
        assert not torch.equal(weight.matrix, round_to_grid(before[weight.name]))
        if sparsity:
            assert not weight.matrix[~masks[weight.name]].any()


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-bart"])
def test_trained_weights_are_packed_as_they_are(name: str) -> None:
    data = sentence_data(sentences(40))
    model, tokenizer = load(name, data.task.head)
    pruning = GradualPruning.of(score="magnitude", sparsity=0.8, pattern="block:1x4", schedule="constant")
    config = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-3, max_length=16)
    finetune(model, tokenizer, data, config, sparsity=pruning, values="int8")
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    quantized = QuantizedTraining(prunable_weights(model))
    quantized.begin()
    text = tokenizer("a film about a dog", return_tensors="pt")
    expected = model(**text).logits
    quantized.end()
    compress(model, values="int8")
    # activations between two integers may be rounded the other way, and fused attention may be in bfloat16
    assert torch.allclose(model(**text).logits, expected, atol=0.03)
    for weight in prunable_weights(decompress(model)):
        assert torch.equal(quantize_rows(weight.matrix)[0], quantize_rows(before[weight.name])[0])
        assert torch.allclose(weight.matrix, before[weight.name], rtol=1e-6, atol=0)


def test_steps_smaller_than_the_grid_add_up() -> None:
    layer = nn.Linear(2, 1)
    weight = PrunableWeight("layer", layer)
    with torch.no_grad():
        weight.matrix.copy_(torch.tensor([[127.0, 3.0]]))
    quantized = QuantizedTraining([weight])
    quantized.begin()
    rounded = []
    for _ in range(12):
        quantized.restore()
        weight.matrix[0, 1] += 0.125
        quantized.round()
        rounded.append(float(weight.matrix[0, 1]))
    assert rounded == 3 * [3.0] + 9 * [4.0]  # 3.5 and 4.5 are rounded to even
    assert float(quantized.unrounded["layer"][0, 1]) == 4.5


def test_only_the_last_quarter_of_the_steps_is_in_int8(tmp_path: Path) -> None:
    class Recording(TrainerCallback):
        def __init__(self) -> None:
            self.steps: list[int] = []

        def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
            if all(all_on_grid(model)):
                self.steps.append(state.global_step - 1)

    model, recording = ARCHITECTURES["bert"].build(), Recording()
    callback = SparsityCallback(values="int8", sparsity=0.8, score="magnitude")
    train(model, tmp_path, callback, recording, max_steps=16)
    assert recording.steps == [12, 13, 14, 15]
    assert callback.schedule
    assert callback.schedule.times[-1] < 12
    total = sum(weight.matrix.numel() for weight in prunable_weights(model))
    assert sum(int(weight.zeros.sum()) for weight in prunable_weights(model)) >= int(0.8 * total)


@pytest.mark.parametrize("steps", range(1, 40))
def test_a_training_of_any_length_is_in_int8_after_its_last_pruning(steps: int) -> None:
    assert quantized_from(steps) < steps
    for schedule in ("constant", "gradual") if steps > 8 else ("constant",):
        gradual = GradualPruning.of(sparsity=0.5, score="magnitude", schedule=schedule)
        assert gradual.schedule_for(steps).times[-1] <= quantized_from(steps)


@pytest.mark.parametrize(
    ("stop", "settings"), [(11, PRUNED), (12, PRUNED), (13, {})], ids=["pruned-11", "pruned-12", "dense-13"]
)
def test_training_resumes_bit_exactly(tmp_path: Path, stop: int, settings: dict[str, Any]) -> None:
    """Interrupted before the steps in int8, which begin with the 12th, at their beginning and among them."""

    class InterruptError(Exception):
        pass

    class Interrupt(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step == stop:
                raise InterruptError

    def run(model: PreTrainedModel, folder: Path, *callbacks: TrainerCallback, resume: bool = False) -> None:
        callback = SparsityCallback(values="int8", **settings)
        train(model, folder, callback, *callbacks, resume=resume, max_steps=16, save_strategy="steps", save_steps=1)

    whole, parts, resumed = (ARCHITECTURES["gpt2"].build() for _ in range(3))
    run(whole, tmp_path / "whole")
    with pytest.raises(InterruptError):
        run(parts, tmp_path / "parts", Interrupt())
    run(resumed, tmp_path / "parts", resume=True)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert all(all_on_grid(resumed))
    with pytest.raises(PruningError, match=r"int8"):
        train(resumed, tmp_path / "parts", SparsityCallback(**settings), resume=True, max_steps=20)


def test_the_quantized_model_is_validated_and_the_best_of_its_epochs_kept() -> None:
    data = sentence_data(sentences(200))
    model, tokenizer = load("tiny-bert", data.task.head)
    accuracies = iter([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.4])
    seen: list[tuple[bool, Tensor]] = []
    ids = torch.arange(10, 26).view(2, 8)

    def validate(model: PreTrainedModel) -> dict[str, float]:
        with torch.no_grad():
            seen.append((all(all_on_grid(model)), model(ids).logits))
        return {"accuracy": next(accuracies)}

    config = TrainingConfig(epochs=8, batch_size=16, learning_rate=1e-3, max_length=16, patience=2, limit=64)
    result = finetune(model, tokenizer, data, config, values="int8", validate=validate)
    assert [rounded for rounded, _ in seen] == 6 * [False] + 2 * [True]
    assert result.kept["accuracy"] == 0.5
    assert all(all_on_grid(model))
    for weight in prunable_weights(model):
        weight.module.register_forward_pre_hook(lambda module, inputs: (quantize_tokens(inputs[0]),))
    assert torch.equal(model(ids).logits, seen[6][1])


def test_training_stops_with_an_error_before_the_steps_in_int8(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            control.should_training_stop = state.global_step == 5

    with pytest.raises(PruningError, match=r"step 5.*int8"):
        train(ARCHITECTURES["bert"].build(), tmp_path, SparsityCallback(values="int8"), Stop(), max_steps=8)


def test_other_values_are_refused() -> None:
    with pytest.raises(PruningError, match=r"int4.*int8"):
        SparsityCallback(values="int4")  # type: ignore[arg-type]
    data = sentence_data(sentences(20))
    model, tokenizer = load("tiny-bert", data.task.head)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningError, match=r"int9.*int8"):
        finetune(model, tokenizer, data, replace(TrainingConfig(), epochs=1), values="int9")  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_after_an_error_inputs_are_not_rounded() -> None:
    data = sentence_data(sentences(20))
    model, tokenizer = load("tiny-bert", data.task.head)

    def fail(model: PreTrainedModel) -> dict[str, float]:
        raise KeyError("no metric")

    with pytest.raises(KeyError, match="no metric"):
        finetune(model, tokenizer, data, TrainingConfig(epochs=1, max_length=16), values="int8", validate=fail)
    assert all(all_on_grid(model))
    assert not any(weight.module._forward_pre_hooks for weight in prunable_weights(model))


@pytest.mark.parametrize("values", [None, "int8"])
def test_after_an_interrupt_another_training_starts_afresh(tmp_path: Path, values: Any) -> None:
    class Interrupt(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step == 7:
                raise KeyboardInterrupt

    interrupted, fresh = (ARCHITECTURES["bert"].build() for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, tmp_path, SparsityCallback(values="int8"), Interrupt(), max_steps=8)
    fresh.load_state_dict(interrupted.state_dict())
    for model in (interrupted, fresh):
        train(model, tmp_path, SparsityCallback(values=values), max_steps=8)
    ids = torch.arange(10, 26).view(2, 8)
    assert torch.equal(interrupted.eval()(ids).logits, fresh.eval()(ids).logits)


def test_compiled_models_are_trained_in_int8(tmp_path: Path) -> None:
    compiled, plain = (ARCHITECTURES["bert"].build() for _ in range(2))
    settings = {"torch_compile": True, "torch_compile_backend": "eager"}  # which has the same bits
    trainer = train(compiled, tmp_path, SparsityCallback(values="int8"), max_steps=8, **settings)
    train(plain, tmp_path, SparsityCallback(values="int8"), max_steps=8)
    assert all(torch.equal(value, compiled.state_dict()[name]) for name, value in plain.state_dict().items())
    batch = {name: torch.as_tensor(values)[None] for name, values in batches()[0].items()}
    assert torch.equal(trainer.model_wrapped.eval()(**batch).logits, plain.eval()(**batch).logits)


def test_a_model_without_linear_layers_in_blocks_is_refused() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

    callback = SparsityCallback(values="int8")
    state = type("State", (), {"global_step": 0, "max_steps": 4})()
    with pytest.raises(ModelError, match=r"Head.*blocks"):
        callback.on_train_begin(type("Args", (), {"load_best_model_at_end": False})(), state, None, Head())
