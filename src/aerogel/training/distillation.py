"""Distillation: learning the logits and the hidden states of a teacher."""

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
from aerogel.tables import counted
from aerogel.tasks import IGNORED, TaskKind


@dataclass(frozen=True)
class DistillationConfig:
    """The terms of the distillation loss.

    Attributes:
        hardness: the weight h of the divergence from the teacher, 0 to 1; the loss on the labels has 1 − h.
        temperature: divides the logits of teacher and student.
        hidden: the weight of the distance between the hidden states.
        augmentation: the share of texts that are replaced in each epoch, see `aerogel.tasks.augment`; 0 unless
            hardness is 1, since the new texts have no labels.

    Raises `DataError` for shares outside 0 to 1, a weight below 0, and a temperature that is not above 0.
    """

    hardness: float = 1.0
    temperature: float = 2.0
    hidden: float = 10.0
    augmentation: float = 0.7

    def __post_init__(self) -> None:
        for name, most in (("hardness", 1), ("hidden", math.inf), ("augmentation", 1)):
            value = getattr(self, name)
            expect(value, Real, DataError, f"a number for {name}")
            if not 0 <= value <= most:
                raise DataError(f"{name} {value}: expected a number from 0 to {most}")
        expect(self.temperature, Real, DataError, "a number for the temperature")
        if not 0 < self.temperature < math.inf:
            raise DataError(f"temperature {self.temperature}: expected a number above 0")


@dataclass(frozen=True)
class Distillation:
    """The loss of a student with a teacher of the same architecture and head.

    (1 − h) · task + h · T² · KL(softmax(teacher / T) ‖ softmax(student / T)) (Hinton et al. 2015, arXiv:1503.02531,
    section 2.1, with the hardness h of Kurtic et al. 2022, arXiv:2203.07259), plus the mean square distance of the
    hidden states after each block (Jiao et al. 2020, arXiv:1909.10351, equation 8), relative to the teacher's mean
    square. The kind of task defines the positions, and may replace the divergence by another distance.
    """

    teacher: PreTrainedModel
    config: DistillationConfig
    kind: TaskKind

    def check(self, student: PreTrainedModel) -> None:
        """Raises `ModelError` for a teacher that does not fit the student."""
        if self.teacher is student:
            raise ModelError("the teacher is the student itself: give a copy of it, copy.deepcopy(model)")
        for attribute, expected, actual in (
            ("architecture", student.config.model_type, self.teacher.config.model_type),
            ("head", head_kind(student), head_kind(self.teacher)),
            ("number of labels", student.config.num_labels, self.teacher.config.num_labels),
            ("vocabulary", *(getattr(of.config, "vocab_size", None) for of in (student, self.teacher))),
        ):
            if actual != expected:
                raise ModelError(f"the teacher's {attribute} is not the student's: expected {expected}, found {actual}")

    def loss(self, student: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        """The mean loss of one batch, and the student's output."""
        with_hidden = self.config.hidden > 0
        output = self.kind.outputs(student, inputs, output_hidden_states=with_hidden)
        with torch.no_grad():
            target = self.kind.outputs(self.teacher, inputs, output_hidden_states=with_hidden)
        ours, theirs = (self.kind.answers(of, inputs, self.teacher) for of in (output, target))
        total = self.config.hardness * self.kind.distillation_loss(ours, theirs, self.config.temperature)
        if self.config.hardness < 1:
            total = total + (1 - self.config.hardness) * self.kind.loss(output, inputs, self.teacher)
        if with_hidden:
            total = total + self.config.hidden * _distance(output, target, self._masks(inputs))
        return total, output

    def _masks(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """Which positions hold tokens, by the side of the model."""
        mask = inputs.get("attention_mask")
        if mask is not None:
            mask = mask.flatten(0, -2)  # the choices of a text are rows of their own
        decoder = inputs["labels"] != IGNORED if self.kind.reads_labels else mask
        return {"": mask, "encoder": mask, "decoder": decoder}


def _distance(output: Any, target: Any, masks: Mapping[str, Tensor | None]) -> Tensor:
    """The mean over blocks of ‖student − teacher‖² / ‖teacher‖² over the tokens that are not padding."""
    distances = []
    for side, student, teacher in _hidden_states(output, target):
        if student.shape != teacher.shape:
            raise ModelError(
                f"the teacher's hidden states are {teacher.shape[-1]} wide, the student's {student.shape[-1]}: use "
                "hidden = 0 to learn from its logits alone"
            )
        student, teacher = student.float(), teacher.float()
        if (mask := masks[side]) is not None:
            student, teacher = student[mask.bool()], teacher[mask.bool()]
        distances.append(mse_loss(student, teacher) / teacher.square().mean())
    return torch.stack(distances).mean()


def _hidden_states(output: Any, target: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The hidden states of both after each block: "" or the side of an encoder-decoder, student's, teacher's."""
    for side in ("", "encoder", "decoder"):
        name = f"{side}_hidden_states".strip("_")
        student, teacher = getattr(output, name, None), getattr(target, name, None)
        if student is None or teacher is None:
            continue
        if len(student) != len(teacher):
            raise ModelError(
                f"the teacher has {counted(len(teacher) - 1, 'block')}, the student {len(student) - 1}: use hidden = 0"
            )
        yield from ((side, *states) for states in zip(student[1:], teacher[1:], strict=True))
