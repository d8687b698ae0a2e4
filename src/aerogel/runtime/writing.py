"""Writes pruned models packed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aerogel import models
from aerogel.errors import ModelError
from aerogel.runtime.conversion import LEAST_SPARSITY, compress
from aerogel.runtime.layers import sparse_layers
from aerogel.runtime.values import VALUE_TYPES, HeadChoice, ValueChoice
from aerogel.tables import counted


@dataclass(frozen=True)
class ZeroCount:
    """The zeros among the prunable weights of a model, and the number of all its weights."""

    zeros: int
    prunable: int
    weights: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.prunable

    def __str__(self) -> str:
        whole = self.zeros / self.weights
        shares = f"{self.sparsity:.2%} of {self.prunable:,} prunable weights, {whole:.2%} of the model"
        return f"{counted(self.zeros, 'zero')}, {shares}"


@dataclass(frozen=True)
class Saved:
    """What was written: the `zeros` before values were rounded, the `dtype` of the weights by name, whether some layers
    are packed, and the files of the source that were `left_out`, see `aerogel.models.save`.
    """

    zeros: ZeroCount
    dtype: str
    is_packed: bool
    left_out: Sequence[str]


def save_pruned(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    output: str | os.PathLike[str],
    source: str,
    provenance: models.Provenance,
    *,
    pack: bool,
    values: ValueChoice | None = None,
    head_values: HeadChoice | None = None,
    targets: Sequence[str] = ("blocks",),
    exclude: Sequence[str] = (),
) -> Saved:
    """Saves a pruned model with weights of the types that its `source` has, packed unless `pack` is false.

    The model is moved to the CPU, where packed models run.

    Packed values are rounded to the type `values`, and the head to `head_values`, see `compress`. The `sparsity` of
    `provenance` becomes that of the weights that `targets` and `exclude` name.
    """
    model.cpu()
    stored = models.stored_dtypes(source)
    casts_last = pack and values == "int8"  # weights on a grid of integers would leave it in 16 bits
    if not casts_last:
        stored.apply(model)
    masks = [weight.zeros for weight in models.prunable_weights(model, targets, exclude)]
    zeros = ZeroCount(
        sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks), models.parameter_count(model)
    )
    if pack:
        compress(model, values, head_values)
    if casts_last:
        stored.apply(model)
    left_out = models.save(model, tokenizer, output, source, replace(provenance, sparsity=zeros.sparsity))
    return Saved(zeros, str(stored.main).removeprefix("torch."), bool(sparse_layers(model)), left_out)


def pack(
    source: str,
    output: str | os.PathLike[str],
    values: ValueChoice | None = None,
    head_values: HeadChoice | None = None,
) -> Saved:
    """Writes a model packed, with the zeros that it has.

    Raises `ModelError` for a model without enough zeros, unless `values` are integers: those are packed without zeros.
    """
    model = models.load_model(source)
    is_float = values is None or VALUE_TYPES[values].is_float
    sparsity = max(float(weight.zeros.float().mean()) for weight in models.prunable_weights(model))
    if is_float and sparsity < LEAST_SPARSITY:
        raise ModelError(
            f"{source} has at most {sparsity:.0%} zeros in a layer, and packing pays off from {LEAST_SPARSITY:.0%}: "
            "prune it first (aerogel prune), or pack it with values int8"
        )
    tokenizer = models.load_tokenizer(source) if models.has_tokenizer(source) else None
    provenance = models.Provenance()
    return save_pruned(model, tokenizer, output, source, provenance, pack=True, values=values, head_values=head_values)
