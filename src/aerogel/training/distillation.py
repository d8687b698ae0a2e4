"""Learning from a dense model: its answers, and what stands between its blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import PreTrainedModel

from aerogel.errors import DataError, ModelError, expect
from aerogel.models import head_kind
from aerogel.tasks import IGNORED, TaskKind


@dataclass(frozen=True)
class DistillationConfig:
    """How much is learnt from the teacher.

    Attributes:
        hardness: the teacher's share in the loss on the answers; the rest is the labels'.
        temperature: divides the logits of both before they are compared.
        hidden: weight of the distance of the hidden states between blocks, in units of the teacher's mean square.
        augmentation: share of a task's texts that, each epoch anew, give way to others made of them; see
            `aerogel.tasks.augment`. Only where the labels have no share in the loss, with hardness 1.

    Raises `DataError` for shares outside 0 to 1, a weight below 0, and a temperature that is not above 0.
    """

    hardness: float = 1.0
    temperature: float = 2.0
    hidden: float = 10.0
    augmentation: float = 0.7

    def __post_init__(self) -> None:
        for what, found, low, high in (
            ("hardness", self.hardness, 0, 1),
            ("hidden", self.hidden, 0, math.inf),
            ("augmentation", self.augmentation, 0, 1),
        ):
            expect(found, Real, DataError, f"a number for the {what}")
            if not low <= found <= high:
                raise DataError(f"{what} {found}: expected a number from {low} to {high}")
        expect(self.temperature, Real, DataError, "a number for the temperature")
        if not 0 < self.temperature < math.inf:
            raise DataError(f"temperature {self.temperature}: expected a number above 0")


@dataclass(frozen=True)
class Distillation:
    """The loss of a student beside its teacher, a model of the same kind with the same answers to give.

    (1 − h) · task + h · T² · KL(softmax(teacher / T) ‖ softmax(student / T)) (Hinton et al. 2015, arXiv:1503.02531,
    section 2.1, with the hardness h of Kurtic et al. 2022, arXiv:2203.07259), plus the mean square distance of the
    hidden states after each block (Jiao et al. 2020, arXiv:1909.10351, equation 8). The kind of task chooses the
    positions, and may have another distance in place of the divergence.
    """

    teacher: PreTrainedModel
    config: DistillationConfig
    kind: TaskKind

    def check(self, student: PreTrainedModel) -> None:
        """Raises `ModelError` for a teacher that can't teach the student."""
        if self.teacher is student:
            raise ModelError("the teacher is the student itself: give a copy of it, copy.deepcopy(model)")
        for what, ours, theirs in (
            ("architecture", student.config.model_type, self.teacher.config.model_type),
            ("head", head_kind(student), head_kind(self.teacher)),
            ("number of labels", student.config.num_labels, self.teacher.config.num_labels),
            ("vocabulary", student.config.vocab_size, self.teacher.config.vocab_size),
        ):
            if ours != theirs:
                raise ModelError(f"the teacher has another {what} than the student: {theirs}, expected {ours}")

    def loss(self, student: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        """The loss of one batch, a mean over its answers, and the student's output."""
        wanted = self.config.hidden > 0
        output = student(**inputs, output_hidden_states=wanted)
        with torch.no_grad():
            target = self.teacher(**inputs, output_hidden_states=wanted)
        ours, theirs = (self.kind.answers(of, inputs, self.teacher) for of in (output, target))
        total = self.config.hardness * self.kind.distillation_loss(ours, theirs, self.config.temperature)
        if self.config.hardness < 1:
            total = total + (1 - self.config.hardness) * output.loss
        if wanted:
            total = total + self.config.hidden * _distance(output, target, self._masks(inputs))
        return total, output

    def _masks(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """Which positions hold tokens, by the side of the model."""
        mask = inputs.get("attention_mask")
        decoder = inputs["labels"] != IGNORED if self.kind.reads_labels else mask
        return {"": mask, "encoder": mask, "decoder": decoder}


def _distance(output: Any, target: Any, masks: Mapping[str, Tensor | None]) -> Tensor:
    """The mean over blocks of ‖student − teacher‖² / ‖teacher‖² over the tokens that are not padding."""
    distances = []
    for name, found, goal in _hidden_states(output, target):
        if found.shape != goal.shape:
            raise ModelError(
                f"the teacher's hidden states are {goal.shape[-1]} wide, the student's {found.shape[-1]}: learn from "
                "its answers alone, with hidden = 0"
            )
        found, goal = found.float(), goal.float()
        if (mask := masks[name]) is not None:
            found, goal = found[mask.bool()], goal[mask.bool()]
        distances.append(mse_loss(found, goal) / goal.square().mean())
    return torch.stack(distances).mean()


def _hidden_states(output: Any, target: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Pairs of hidden states, those of the embeddings left out, and the side that they belong to."""
    for side in ("", "encoder", "decoder"):
        name = f"{side}_hidden_states".strip("_")
        found, goal = getattr(output, name, None), getattr(target, name, None)
        if found is None or goal is None:
            continue
        if len(found) != len(goal):
            raise ModelError(
                f"the teacher has {len(goal) - 1} blocks, the student {len(found) - 1}: learn from its answers alone, "
                "with hidden = 0"
            )
        for ours, theirs in zip(found[1:], goal[1:], strict=True):
            yield side, ours, theirs
