import torch
from torch import Tensor

from aerogel.pruning.least_squares import inverse
from aerogel.pruning.methods.wanda import score
from aerogel.pruning.pattern import Pattern
from aerogel.pruning.pruning_method import PruningMethod, Statistics

COLUMNS = 128  # whose weights compete with each other
DAMPING = 0.01


def prune(weight: Tensor, statistics: Statistics, pattern: Pattern, sparsity: float) -> tuple[Tensor, Tensor]:
    """Prunes columns from left to right; the columns to the right compensate for each one's error, algorithm 1."""
    hessian = statistics.input_hessian()
    weight = weight.masked_fill(hessian.diagonal() == 0, 0)
    root = torch.linalg.cholesky(inverse(hessian, DAMPING), upper=True)
    mask = torch.ones_like(weight, dtype=torch.bool)
    for start, end in _spans(weight.shape[1], pattern):
        errors = torch.zeros_like(weight[:, start:end])
        for column in range(start, end):
            if column == start or (pattern.group and column % pattern.group == 0):
                stop = min(column + pattern.group, end) if pattern.group else end
                scores = (weight[:, column:stop] / root.diagonal()[column:stop]) ** 2
                share = sparsity if pattern.group else _share(weight.shape, pattern, sparsity, column, stop)
                # a narrow last block may be dropped whole
                mask[:, column:stop] = pattern.mask(scores, share) if share < 1 else False
            dropped = weight[:, column].masked_fill(mask[:, column], 0)
            errors[:, column - start] = dropped / root[column, column]
            weight[:, column:end] -= torch.outer(errors[:, column - start], root[column, column:end])
        weight[:, end:] -= errors @ root[start:end, end:]
    return mask, weight


def _spans(columns: int, pattern: Pattern) -> list[tuple[int, int]]:
    """Blocks of about 128 columns that don't divide a group or block of the pattern."""
    unit = max(pattern.group, pattern.columns)
    width = max(COLUMNS // unit, 1) * unit
    return [(start, min(start + width, columns)) for start in range(0, columns, width)]


def _share(shape: torch.Size, pattern: Pattern, sparsity: float, start: int, end: int) -> float:
    """The sparsity of columns `start` to `end`, such that the counts of all column blocks have the exact sum."""

    def dropped(columns: int) -> int:
        units = columns // pattern.columns
        return round(sparsity * (units if pattern.per_row else units * (shape[0] // pattern.rows)))

    units = (end - start) // pattern.columns * (1 if pattern.per_row else shape[0] // pattern.rows)
    return (dropped(end) - dropped(start)) / units


METHOD = PruningMethod(
    "sparsegpt",
    prune,
    needs="hessian",
    description="drops the weights of the smallest second-order error, in blocks of 128 columns over all rows of the "
    "matrix, and updates the columns to the right to compensate",
    paper="Frantar and Alistarh 2023, SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    score=score,
)
