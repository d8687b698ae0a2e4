"""Zeros that stay zeros while a model trains, and become more where that is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from aerogel.errors import PruningError, expect
from aerogel.models import PrunableWeight, prunable_weights
from aerogel.models.prunable import TARGETS
from aerogel.pruning import Calibration, Pattern, PruneConfig, ScoreState, all_methods, method, prune
from aerogel.pruning.allocation import Allocator
from aerogel.pruning.masking import plain_statistics
from aerogel.training.checkpoint import begin_run, check_zeros, load_state, save_state
from aerogel.training.schedule import Schedule
from aerogel.training.sparsity import SparsityConfig
from aerogel.training.zeros import zero_masks


class SparsityCallback(TrainerCallback):
    """Holds the zeros of a model through training with transformers' Trainer, and prunes it on the way.

        callback = SparsityCallback(sparsity=0.9, calibration=aerogel.calibration("sst2", tokenizer))
        Trainer(model, arguments, train_dataset=..., callbacks=[callback]).train()

    Takes a `SparsityConfig`, its fields as keywords, or neither: then no weight is pruned. A score that looks at text
    needs `calibration`; "magnitude", "movement", "platon" and "obs" do not, and what they prune stays pruned. The zeros
    of pruned weights that are there when training begins, and those made, are put back after every optimizer step,
    since momentum and weight decay revive them, and are checked once more at the end. What starts at zero but was not
    pruned is left to learn: adapters, matrices of zeros alone (gates, new heads), and outside the blocks rows of zeros
    alone (new tokens and classes), see `aerogel.training.zeros`.

    Each checkpoint gets a file with what is needed to resume from it bit-exactly; it is written last, so that a
    checkpoint that has it is whole. Raises `PruningError` as the configuration does, where it does not fit the model or
    the length of the training, and where a checkpoint to resume from has no such file, or that of another training,
    model or configuration.
    """

    def __init__(
        self, config: SparsityConfig | None = None, calibration: Calibration | None = None, **settings: Any
    ) -> None:
        if config is not None:
            expect(config, SparsityConfig, PruningError, "a SparsityConfig, or its fields as keywords (sparsity=0.9)")
        if calibration is not None:
            expect(calibration, Calibration, PruningError, "calibration text (aerogel.calibration gives it)")
        if settings:
            config = replace(config, **settings) if config else SparsityConfig(**settings)
        if config and config.calibrates and calibration is None:
            others = [name for name, entry in all_methods().items() if not entry.looks_at_text]
            raise PruningError(
                f"{config.score} looks at text to choose weights: give calibration=aerogel.calibration(...), or take "
                f"a score that needs none: {', '.join(others)}"
            )
        self.config, self.calibration = config, calibration
        self.held: dict[str, Tensor] = {}
        self.memories: dict[str, ScoreState] = {}
        self.weights: list[PrunableWeight] = []
        self.pruned: list[PrunableWeight] = []
        self.schedule: Schedule | None = None
        self.step = 0
        self.sparsity = 0.0  # the share of zeros held among the weights to prune
        self.best_is_pruned = False  # whether the Trainer takes no epoch before the last pruning for the best

    @property
    def is_final(self) -> bool:
        """Whether no pruning is left to come."""
        return self.schedule is None or self.step > self.schedule.times[-1]

    @property
    def _settings(self) -> str:
        """What identifies the pruning of a run, for the checkpoints."""
        return repr(self.config) if self.config else ""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
        if self.config and args.load_best_model_at_end and not self.best_is_pruned:
            raise PruningError(
                "load_best_model_at_end may bring back a model from before the last pruning: leave it out"
            )
        self.weights, self.step = prunable_weights(model, TARGETS), state.global_step
        if self.config:
            self.pruned, self.schedule = self.config.weights(model), self.config.course(state.max_steps)
        if state.global_step:
            self._restore(args, state)
        else:
            self.held = zero_masks(self.weights)  # also of frozen weights, which may be set free on the way
            self.memories = {weight.name: {} for weight in self.pruned}
        begin_run(args, state)
        self._count()

    def on_step_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **others: Any) -> None:
        if self.schedule and self.schedule.sparsity and state.global_step in self.schedule.times:
            self._prune(model, self.schedule.sparsity_at(self.schedule.times.index(state.global_step)))
        self.step = state.global_step + 1

    @torch.no_grad()
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        observe = method(self.config.score).observe if self.config else None
        if observe and not self.is_final:
            for weight in self.pruned:
                if (gradient := weight.gradient) is not None:
                    observe(weight.matrix.float(), gradient.float(), self.memories[weight.name])

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        for weight in self.weights:
            if weight.name in self.held:
                weight.matrix.masked_fill_(self.held[weight.name], 0)

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if not state.is_world_process_zero:
            return
        tensors = {f"held/{name}": zeros for name, zeros in self.held.items()}
        for name, memory in self.memories.items():
            tensors |= {f"memory/{name}/{key}": value for key, value in memory.items()}
        save_state(tensors, self._settings, args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if not self.is_final:
            raise PruningError(f"training ended at step {state.global_step}, before the last pruning")
        for weight in self.weights:
            if weight.name in self.held and (self.held[weight.name] & ~weight.zeros).any():
                raise PruningError(f"layer {weight.name}: zeros came alive in training")

    def _prune(self, model: nn.Module, sparsity: float) -> None:
        """Makes zeros until they are the share `sparsity` of the weights to prune, and holds them."""
        assert self.config
        if self.config.calibrates:
            self.held |= self._by_method(model, self.config, sparsity)
        else:
            self._by_rank(self.config, sparsity)
        self._count()

    def _by_method(self, model: nn.Module, config: SparsityConfig, sparsity: float) -> dict[str, Tensor]:
        """The zeros of one calibrated pruning, no fewer than before, which also moves the weights that stay."""
        pattern = Pattern.parse(config.pattern)
        if pattern.fixed_sparsity is None:
            dead = sum(int(self._dead(weight, pattern).sum()) for weight in self.pruned)
            sparsity = max(sparsity, dead / sum(weight.matrix.numel() for weight in self.pruned))
        settings = PruneConfig(
            config.score,
            sparsity,
            config.pattern,
            targets=config.targets,
            exclude=config.exclude,
            allocation="uniform" if config.scope == "layer" else None,
        )
        return {name: ~mask for name, mask in prune(model, settings, self.calibration).items()}

    @torch.no_grad()
    def _by_rank(self, config: SparsityConfig, sparsity: float) -> None:
        """Adds the lowest scores to the zeros held."""
        pattern, chosen = Pattern.parse(config.pattern), method(config.score)

        def scores(weight: PrunableWeight) -> Tensor:
            memory = self.memories[weight.name]
            if chosen.observe and not memory:
                raise PruningError(
                    f"layer {weight.name}: score {chosen.name} looks at gradients, and there was none before the first "
                    "pruning: train for more epochs, in smaller batches, or let the layer learn"
                )
            # the lowest possible where all is zero already, so that it stays
            statistics = replace(plain_statistics(weight, 0), state=memory)
            return chosen.score(weight.matrix.float(), statistics).masked_fill(self._dead(weight, pattern), -torch.inf)

        if pattern.fixed_sparsity is not None:
            masks = [pattern.approach(scores(weight), sparsity) for weight in self.pruned]
        else:
            allocator = Allocator(self.pruned, scores, pattern, sparsity)
            shares = allocator.shares("global" if config.scope == "global" else "uniform")
            masks = [pattern.mask(scores(weight), share) for weight, share in zip(self.pruned, shares, strict=True)]
        for weight, mask in zip(self.pruned, masks, strict=True):
            self.held[weight.name] = self.held.get(weight.name, ~mask) | ~mask
            weight.matrix.masked_fill_(~mask, 0)

    def _count(self) -> None:
        zeros = sum(int(self.held[weight.name].sum()) for weight in self.pruned if weight.name in self.held)
        self.sparsity = zeros / max(1, sum(weight.matrix.numel() for weight in self.pruned))

    def _dead(self, weight: PrunableWeight, pattern: Pattern) -> Tensor:
        """Marks the weights of which the whole unit, a single weight or a block, is held at zero."""
        held = self.held.get(weight.name, torch.zeros_like(weight.matrix, dtype=torch.bool))
        return pattern.spread(pattern.units((~held).float()) == 0)

    def _restore(self, args: Any, state: Any) -> None:
        file, tensors = load_state(self._settings, args, state)
        homes = {weight.name: weight.matrix.device for weight in self.weights}
        self.held = {
            name: tensors[f"held/{name}"].to(home) for name, home in homes.items() if f"held/{name}" in tensors
        }
        for weight in self.weights:
            if weight.name in self.held:
                check_zeros(weight.name, self.held[weight.name], weight.zeros, file)
        self.memories = {
            weight.name: {
                key.removeprefix(prefix): value.to(homes[weight.name])
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            for weight in self.pruned
            for prefix in (f"memory/{weight.name}/",)
        }
