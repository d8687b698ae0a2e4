"""Zeros that stay zeros while a model trains, gradual pruning, and int8 values."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from aerogel.errors import PruningError, expect, unknown_name
from aerogel.models import PrunableWeight, inner_model, prunable_weights
from aerogel.models.prunable import TARGETS
from aerogel.pruning import ROUNDED_VALUES, RoundedValues, ScoreState, all_methods, method, prune
from aerogel.pruning.allocation import Allocator
from aerogel.pruning.calibration import CalibrationSource, as_calibration
from aerogel.pruning.masking import plain_statistics
from aerogel.pruning.texts import is_texts
from aerogel.training.checkpoint import begin_run, load_state, save_state
from aerogel.training.gradual import GradualPruning
from aerogel.training.quantization import QuantizedTraining, stop_rounding_inputs
from aerogel.training.schedule import Schedule, quantized_from
from aerogel.training.zeros import zero_masks


class SparsityCallback(TrainerCallback):
    """Keeps the zeros of a model in training with transformers' Trainer, and prunes it gradually.

        callback = SparsityCallback(sparsity=0.9, calibration=aerogel.calibration("sst2", tokenizer))
        Trainer(model, arguments, train_dataset=..., callbacks=[callback]).train()

    Takes a `GradualPruning`, or keywords: the fields of `PruneConfig`, with `score` ("best" by default) for its
    method, and `schedule`. Without any, it prunes nothing. `calibration` is for configurations that need text, such as
    score "best"; "magnitude", "movement", "platon" and "obs" do not, and what they prune stays pruned.

    Momentum and weight decay change pruned weights, so the callback sets them to zero again after every optimizer step:
    those that are zero when training begins, and those pruned since. It checks them when training ends. Weights that
    start at zero but were not pruned are trained: adapters, matrices of zeros alone (gates, new heads), and outside the
    blocks rows of zeros alone (new tokens and classes), see `aerogel.training.zeros`.

    With `values` "int8" the last quarter of the steps is quantization-aware: the linear layers of the blocks compute
    with int8 weights and inputs, see `aerogel.training.quantization`. Afterwards the weights are those of the integers,
    so that `aerogel.compress(model, values="int8")` does not change them. If an error or an interrupt ends training
    within these steps, the layers round their inputs until the model is trained again or loaded anew.

    With `load_best_model_at_end` the Trainer selects the best of the evaluations after the last pruning, with `values`
    of those in int8, and transformers' `EarlyStoppingCallback` counts only these.

    Each checkpoint gets a file from which training resumes bit-exactly; it is written last, so that a checkpoint that
    has it is complete. Raises `PruningError` where the configuration does not fit the model or the length of the
    training, and where a checkpoint to resume from lacks that file, or has the one of another training, model or
    configuration.

    >>> SparsityCallback(sparsity=0.9, score="magnitude").config.pruning.sparsity
    0.9
    """

    def __init__(
        self,
        config: GradualPruning | None = None,
        calibration: CalibrationSource | None = None,
        *,
        values: RoundedValues | None = None,
        **settings: Any,
    ) -> None:
        if config is not None:
            expect(config, GradualPruning, PruningError, "GradualPruning, or settings as keywords (sparsity=0.9)")
        if values not in (None, *ROUNDED_VALUES):
            raise PruningError(unknown_name("values", values, ROUNDED_VALUES))
        if settings:
            config = GradualPruning.of(config, **settings)
        if config and config.pruning.needs_calibration and calibration is None:
            others = [name for name, entry in all_methods().items() if not entry.looks_at_text]
            raise PruningError(
                f"{config.pruning.needs_text_for} needs text: give calibration=aerogel.calibration(...), "
                f"or use a score that needs none ({', '.join(others)}) without swap, reconstruct and a searched "
                "allocation"
            )
        self.config, self.values = config, values
        of_model = calibration is None or is_texts(calibration)  # texts are for the tokenizer of the model
        self.calibration = calibration if of_model else as_calibration(calibration)
        self.zero_masks: dict[str, Tensor] = {}  # by weight name: (d_out, d_in), True at weights kept at zero
        self.score_states: dict[str, ScoreState] = {}
        self.weights: list[PrunableWeight] = []
        self.pruned: list[PrunableWeight] = []
        self.schedule: Schedule | None = None
        self.step = 0
        self.sparsity = 0.0  # the share of zeros among the weights to prune
        self.quantized = QuantizedTraining(())

    @property
    def is_final(self) -> bool:
        """Whether the last pruning is done, and training is in int8 if asked to be."""
        return self._is_pruned and (self.values is None or self.quantized.is_active)

    @property
    def _is_pruned(self) -> bool:
        return self.schedule is None or self.step > self.schedule.times[-1]

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
        model = inner_model(model)
        stop_rounding_inputs(model.modules())  # where a training was interrupted
        self.quantized = QuantizedTraining(prunable_weights(model) if self.values else ())
        self.weights, self.step = prunable_weights(model, TARGETS), state.global_step
        if self.config:
            self.pruned, self.schedule = self.config.weights(model), self.config.schedule_for(state.max_steps)
        if self.calibration is not None:
            self.calibration = as_calibration(self.calibration, model)
        if state.global_step:
            self._restore(args, state)
        else:
            self.zero_masks = zero_masks(self.weights)  # of frozen weights too, which may be unfrozen later
            self.score_states = {weight.name: {} for weight in self.pruned}
        begin_run(args, state)
        self._count()

    def on_step_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
        if not self.is_final:  # forget what the Trainer has selected as the best, for early stopping too
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        if self.schedule and self.schedule.sparsity and state.global_step in self.schedule.times:
            sparsity = self.schedule.sparsity_at(self.schedule.times.index(state.global_step))
            self._prune(inner_model(model), sparsity)
        if self.values and not self.quantized.is_active and state.global_step >= quantized_from(state.max_steps):
            self.quantized.begin()
        self.step = state.global_step + 1

    @torch.no_grad()
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        observe = method(self.config.pruning.method).observe if self.config else None
        if observe and not self._is_pruned:
            for weight in self.pruned:
                if (gradient := weight.gradient) is not None:
                    observe(weight.matrix.float(), gradient.float(), self.score_states[weight.name])
        if self.quantized.is_active:
            self.quantized.restore()

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        for weight in self.weights:
            if weight.name in self.zero_masks:
                weight.matrix.masked_fill_(self.zero_masks[weight.name], 0)
        if self.quantized.is_active:
            self.quantized.round()

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if not state.is_world_process_zero:
            return
        tensors = {f"zeros/{name}": mask for name, mask in self.zero_masks.items()}
        for name, score_state in self.score_states.items():
            tensors |= {f"score/{name}/{key}": value for key, value in score_state.items()}
        tensors |= {f"unrounded/{name}": matrix for name, matrix in self.quantized.unrounded.items()}
        save_state(tensors, self._settings, args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if not self.is_final:
            missing = f"the steps with {self.values} values" if self._is_pruned else "the last pruning"
            raise PruningError(f"training ended at step {state.global_step}, before {missing}")
        self.quantized.end()
        for weight in self.weights:
            if weight.name in self.zero_masks and (nonzero := self.zero_masks[weight.name] & ~weight.zeros).any():
                raise PruningError(f"layer {weight.name}: training changed {int(nonzero.sum())} pruned weights")

    def _prune(self, model: nn.Module, sparsity: float) -> None:
        """Prunes until `sparsity` is the share of zeros among the weights to prune."""
        assert self.config
        if self.config.pruning.needs_calibration:
            self._prune_again(model, self.config, sparsity)
        else:
            self._prune_lowest(self.config, sparsity)
        self._count()

    def _prune_again(self, model: nn.Module, config: GradualPruning, sparsity: float) -> None:
        """Prunes the whole model to at least as many zeros as before, which also updates other weights."""
        if not config.pattern.group:
            zeros = sum(int(self._zero_units(weight).sum()) for weight in self.pruned)
            sparsity = max(sparsity, zeros / sum(weight.matrix.numel() for weight in self.pruned))
        masks = prune(model, config.pruning, self.calibration, sparsity=sparsity)
        self.zero_masks |= {name: ~mask for name, mask in masks.items()}

    @torch.no_grad()
    def _prune_lowest(self, config: GradualPruning, sparsity: float) -> None:
        """Sets the weights of the lowest scores to zero, beside those that are."""
        pattern, pruning, chosen = config.pattern, config.resolved(), method(config.pruning.method)
        assert pruning.allocation

        def scores(weight: PrunableWeight) -> Tensor:
            score_state = self.score_states[weight.name]
            if chosen.observe and not score_state:
                raise PruningError(
                    f"layer {weight.name}: score {chosen.name} needs gradients, and found none before the first "
                    "pruning: train for more epochs, in smaller batches, or make the layer trainable"
                )
            statistics = replace(plain_statistics(weight, pruning.seed), state=score_state)
            return chosen.score(weight.matrix.float(), statistics)

        def ranks(weight: PrunableWeight) -> Tensor:
            """The scores, the lowest of all for units that are zero already, so that they stay."""
            return scores(weight).masked_fill(self._zero_units(weight), -torch.inf)

        if pattern.group:
            masks = [pattern.approach(ranks(weight), sparsity) for weight in self.pruned]
        else:
            compared = scores if pruning.allocation == "owl" else ranks  # it takes means
            zeros = [float(self._zero_units(weight).float().mean()) for weight in self.pruned]
            shares = Allocator(self.pruned, compared, pattern, sparsity, lowest=zeros).shares(pruning.allocation)
            masks = [pattern.mask(ranks(weight), share) for weight, share in zip(self.pruned, shares, strict=True)]
        for weight, mask in zip(self.pruned, masks, strict=True):
            self.zero_masks[weight.name] = self.zero_masks.get(weight.name, ~mask) | ~mask
            weight.matrix.masked_fill_(~mask, 0)

    def _count(self) -> None:
        zeros = sum(int(self.zero_masks[weight.name].sum()) for weight in self.pruned if weight.name in self.zero_masks)
        self.sparsity = zeros / max(1, sum(weight.matrix.numel() for weight in self.pruned))

    @property
    def _settings(self) -> str:
        """Identifies the configuration in checkpoints."""
        return f"{self.config!r}, values={self.values!r}"

    def _zero_units(self, weight: PrunableWeight) -> Tensor:
        """Marks the weights whose whole unit, a single weight or a block, is kept at zero: (d_out, d_in)."""
        assert self.config
        pattern = self.config.pattern
        zeros = self.zero_masks.get(weight.name, torch.zeros_like(weight.matrix, dtype=torch.bool))
        return pattern.spread(pattern.units((~zeros).float()) == 0)

    def _restore(self, args: Any, state: Any) -> None:
        file, tensors = load_state(self._settings, args, state)
        self.zero_masks = {}
        for weight in self.weights:
            if (mask := tensors.get(f"zeros/{weight.name}")) is not None:
                self.zero_masks[weight.name] = mask = mask.to(weight.matrix.device)
                if nonzero := int((mask & ~weight.zeros).sum()):
                    count = f"{nonzero} of {int(mask.sum())} pruned weights"
                    raise PruningError(f"{file} is of another model: {count} of layer {weight.name} are not zero")
        for weight in self.pruned:
            states = _under(f"score/{weight.name}/", tensors)
            self.score_states[weight.name] = {key: value.to(weight.matrix.device) for key, value in states.items()}
        if unrounded := _under("unrounded/", tensors):
            self.quantized.begin(unrounded)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
