"""Gradual pruning in transformers' Trainer with every head's own loss, and with hidden states as targets."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments, default_data_collator

from aerogel.models import prunable_weights
from aerogel.models.logits import kl_divergence, prediction_logits
from aerogel.pruning import BatchCalibration, prune
from aerogel.pruning.batches import decoder_inputs
from aerogel.training import SparsityCallback
from heads import MODELS, inputs

COUNT = 12


def labels(model: PreTrainedModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random labels, in the form in which the model takes them."""
    name, count = type(model).__name__, len(next(iter(batch.values())))
    torch.manual_seed(3)
    if "QuestionAnswering" in name:
        return {key: torch.randint(0, 6, (count,)) for key in ("start_positions", "end_positions")}
    if model.config.problem_type == "multi_label_classification":
        return {"labels": torch.randint(0, 2, (count, model.config.num_labels)).float()}
    if "TokenClassification" in name:
        classes = torch.randint(0, model.config.num_labels, batch["input_ids"].shape)
        return {"labels": classes.masked_fill(batch["attention_mask"] == 0, -100)}
    if "CTC" in name:
        return {"labels": torch.randint(5, 190, (count, 3))}
    if "Whisper" in name:
        return {"labels": batch["decoder_input_ids"]}
    return {"labels": torch.randint(0, 2, (count,))}


class MatchHiddenStates(Trainer):
    """Trains a model without a head towards the hidden states of a teacher."""

    teacher: PreTrainedModel

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
        inputs = {name: values for name, values in inputs.items() if name != "labels"}
        with torch.no_grad():
            target = self.teacher(**inputs).last_hidden_state
        loss = (model(**inputs).last_hidden_state - target).square().mean()
        return (loss, None) if return_outputs else loss


def train(
    model: PreTrainedModel, folder: Path, callback: SparsityCallback, rows: list[dict[str, Tensor]], steps: int
) -> None:
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    without_head = model.base_model is model
    trainer = (MatchHiddenStates if without_head else Trainer)(
        model, arguments, train_dataset=rows, callbacks=[callback], data_collator=default_data_collator
    )
    if without_head:
        trainer.teacher = copy.deepcopy(model)
    trainer.train()


def data(model: PreTrainedModel) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """A batch of inputs, and the same as rows with labels."""
    batch = inputs(model, COUNT)
    if model.base_model is model and model.config.is_encoder_decoder:
        batch |= decoder_inputs(model, batch, None)
    whole = batch | ({} if model.base_model is model else labels(model, batch))
    if "Whisper" in type(model).__name__:
        del whole["decoder_input_ids"]
    return batch, [
        {name: values[index] for name, values in whole.items()} for index in range(len(next(iter(whole.values()))))
    ]


@pytest.mark.parametrize("score", ["best", "movement"])
@pytest.mark.parametrize(
    "name",
    [
        *("several labels", "tokens", "span", "choices", "images", "speech", "speech to text"),
        *("body", "body, encoder-decoder", "images, body"),
    ],
)
def test_any_model_is_pruned_while_it_trains(tmp_path: Path, name: str, score: str) -> None:
    model = MODELS[name]()
    before = {weight.name: weight.matrix.clone() for weight in prunable_weights(model)}
    _, rows = data(model)
    loader = DataLoader(rows, batch_size=4, collate_fn=default_data_collator)
    callback = SparsityCallback(sparsity=0.8, score=score, calibration=loader if score == "best" else None)
    train(model, tmp_path, callback, rows, 16)
    zeros = {weight.name: weight.zeros for weight in prunable_weights(model)}
    count = sum(int(mask.sum()) for mask in zeros.values())
    assert count == pytest.approx(0.8 * sum(mask.numel() for mask in zeros.values()), rel=1e-3)
    for weight in prunable_weights(model):
        assert not torch.equal(weight.matrix[~zeros[weight.name]], before[weight.name][~zeros[weight.name]])
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_training_on_hidden_states_recovers_an_encoder_without_a_head(tmp_path: Path) -> None:
    model = MODELS["body"]()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    dense, one_shot = copy.deepcopy(model), copy.deepcopy(model)
    batch, rows = data(model)
    settings: dict[str, Any] = dict(sparsity=0.8, calibration=BatchCalibration([batch]))
    train(model, tmp_path, SparsityCallback(score="best", schedule="constant", **settings), rows, 30)
    prune(one_shot, method="best", **settings)

    def kl(pruned: PreTrainedModel) -> float:
        with torch.no_grad():
            return float(kl_divergence(prediction_logits(dense, batch), prediction_logits(pruned, batch)).mean())

    assert 0 < kl(model) < 0.8 * kl(one_shot)
