"""A model's predictions as logits, and their KL divergence to those of another model."""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from aerogel.errors import ModelError
from aerogel.models.mode import evaluating

PADDING_LOGIT = -1e4  # of a position that can't be chosen; finite also in float16


def kl_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(reference ‖ model) of each prediction, in nats: (predictions) of two tensors of logits (predictions, classes).

    A single logit is the mean of a Gaussian with variance 1.

    >>> kl_divergence(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    tensor([0., 0.])
    """
    if reference.shape[-1] == 1:
        return (reference.float() - logits.float()).square().sum(-1) / 2
    expected, log_p = torch.log_softmax(reference.float(), -1), torch.log_softmax(logits.float(), -1)
    return (expected.exp() * (expected - log_p)).sum(-1)


def prediction_logits(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (predictions, classes) of all that a model predicts for a batch, in evaluation mode, without dropout.

    - classes of texts, images or recordings, and multiple choice: one prediction each;
    - several labels of one text (`problem_type` "multi_label_classification") and replaced tokens (ELECTRA): one
      prediction of two classes a label or token, with logits 0 and z;
    - classes of tokens or frames, and language modelling: one prediction a position that is not padding;
    - spans: two predictions a text, of the start and the end, over its positions that are not padding;
    - values, and the hidden states of a model without a head: one prediction a number, whose single logit is the mean
      of a Gaussian with variance 1.

    Raises `ModelError` for a model whose output has none of these.
    """
    with evaluating(model):
        output = model(**batch)
    fields = dict(output) if isinstance(output, ModelOutput) else {}
    if "start_logits" in fields and "end_logits" in fields:
        mask = _positions(model, batch, fields["start_logits"])
        return torch.cat([fields[name].masked_fill(~mask, PADDING_LOGIT) for name in ("start_logits", "end_logits")])
    if "logits" in fields and fields["logits"].dim() in (2, 3):
        logits = fields["logits"]
        if logits.dim() == 3:
            return logits[_positions(model, batch, logits)]
        problem = getattr(model.config, "problem_type", None)
        if _is_discriminator(model, batch, logits):
            logits, problem = logits[_positions(model, batch, logits)], "multi_label_classification"
        if problem == "multi_label_classification":
            return two_class_logits(logits)
        return logits.reshape(-1, 1) if problem == "regression" else logits
    if "last_hidden_state" in fields:
        states = fields["last_hidden_state"]
        return states[_positions(model, batch, states)].reshape(-1, 1)
    if "pooler_output" in fields:
        return fields["pooler_output"].reshape(-1, 1)
    shapes = (f"{name} {tuple(value.shape)}" for name, value in fields.items() if isinstance(value, Tensor))
    raise ModelError(
        f"{type(model).__name__} outputs {', '.join(shapes) or type(output).__name__}, and the effect of pruning is "
        "measured on logits (batch, classes) or (batch, positions, classes), start_logits and end_logits, or "
        "last_hidden_state: use a method and an allocation that look at no predictions"
    )


def two_class_logits(logits: Tensor) -> Tensor:
    """A prediction of two classes, with the logits 0 and z, for each logit z of a label: (numbers, 2).

    >>> two_class_logits(torch.tensor([[1.0, -2.0]]))
    tensor([[ 0.,  1.],
            [ 0., -2.]])
    """
    return torch.stack([torch.zeros_like(logits), logits], -1).view(-1, 2)


def _positions(model: PreTrainedModel, batch: Mapping[str, Tensor], states: Tensor) -> Tensor:
    """(batch, positions), False at padding; all True for a mask over other positions, such as those of a waveform."""
    takes = inspect.signature(model.forward).parameters
    mask = batch.get("decoder_attention_mask" if "decoder_input_ids" in takes else "attention_mask")
    if mask is None or mask.shape != states.shape[:2]:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    return mask.bool()


def _is_discriminator(model: PreTrainedModel, batch: Mapping[str, Tensor], logits: Tensor) -> bool:
    """Whether each logit says of one token if it was replaced (ELECTRA's pretraining)."""
    ids = batch.get("input_ids")
    return ids is not None and logits.shape == ids.shape and type(model).__name__.endswith("ForPreTraining")
