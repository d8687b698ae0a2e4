"""The settings of a training."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

from aerogel.bounds import check_seed
from aerogel.errors import DataError, expect, unknown_name

Precision = Literal["float32", "bfloat16"]
TUNING_EPOCHS = 3.0  # by default, of a dense model
RECOVERY_EPOCHS = 10.0  # and of one that is pruned while it trains
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class TrainingConfig:
    """How to fine-tune.

    Attributes:
        epochs: passes over the training split, or over its first `limit` examples or windows.
        batch_size: sentences of up to `max_length` tokens in a step; for language modelling the same number of tokens
            in windows.
        learning_rate: its peak. It rises over the first 6% of the steps and falls linearly to zero, or follows the
            schedule of gradual pruning.
        patience: stop after this many epochs without a better validation metric, and keep the best epoch.
        precision: of matrix products; "bfloat16" keeps the weights in float32. `None` is "bfloat16" on a GPU that
            supports it, and otherwise "float32".

    Raises `DataError` for epochs, rates and counts that are not above 0, an unknown precision, and a seed outside 0 to
    2³² − 1.
    """

    epochs: float = TUNING_EPOCHS
    batch_size: int = 32
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    max_length: int = 128
    limit: int | None = None
    seed: int = 0
    patience: int | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch_size", "max_length", "patience"):
            value = getattr(self, name)
            if name != "patience" or value is not None:
                expect(value, Real, DataError, f"a number for {name}")
                if not 0 < value < math.inf:
                    raise DataError(f"{name} {value}: expected a number above 0")
        if self.precision not in (None, *PRECISIONS):
            raise DataError(unknown_name("precision", self.precision, PRECISIONS))
        check_seed(self.seed, DataError)
