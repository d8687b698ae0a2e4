"""The sparsity of each matrix, with an exact total over all of them."""

import math
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from aerogel import progress
from aerogel.errors import PruningError
from aerogel.models import PrunableWeight
from aerogel.pruning.choices import Allocation
from aerogel.pruning.pattern import Pattern, flushed, topk_mask
from aerogel.tables import counted

FLOOR = 0.1  # of the overall density: the least that a matrix keeps, since an empty one cuts the network
OUTLIER = 5  # "owl": a score above this many times the mean of its block is an outlier
REACH = 0.08  # "owl": how far the sparsity of a block may be from that of the model
MIXED = 0.6  # "mixed": of the way from uniform to global
SLOPES = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)  # "progression": sparsity of the last block minus that of the first
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)  # "search": starting points, from uniform to global
MOVE, MOVES = 0.04, 12  # "search": the sparsity that moves from one block to another, and the number of trials
SMALLEST_NORMAL = 0x00800000  # the bits of the smallest normal float32


@dataclass(frozen=True)
class Allocator:
    """Distributes a sparsity over matrices.

    Attributes:
        weights: the matrices, in the model's order.
        score: returns the method's scores of a matrix, (d_out, d_in).
        pattern: defines the units that are dropped as one: single weights, or blocks. A per-row pattern drops the same
            number in each row.
        sparsity: of all matrices together.
        kl: the KL divergence to the dense model at given sparsities of the matrices; only "progression" and "search"
            need it.
        lowest: the least sparsity of each matrix, such as that of zeros which have to stay; "uniform" ignores it.
    """

    weights: Sequence[PrunableWeight]
    score: Callable[[PrunableWeight], Tensor]
    pattern: Pattern
    sparsity: float
    kl: Callable[[list[float]], float] | None = None
    lowest: Sequence[float] | None = None

    def shares(self, allocation: Allocation) -> list[float]:
        """The sparsity of each matrix. In total, as many units are dropped as with one sparsity for all.

        With a per-row pattern, one unit of every row of a matrix is dropped at a time, so the total may be lower by
        less than that. Raises `PruningError` where some matrix could not keep its least.
        """
        if allocation == "uniform":
            return [self.sparsity] * len(self.weights)
        if self.pattern.fixed_sparsity is not None:
            raise PruningError(
                f"pattern {self.pattern} fixes the sparsity of every matrix: use allocation uniform, not {allocation}"
            )
        kept, least = sum(self.units) - self.dropped, sum(self.floors)
        if kept < least:
            units = counted(kept, "unit")
            raise PruningError(
                f"sparsity {self.sparsity:g} keeps {units}, but {len(self.units)} matrices need {least} of them"
            )
        allocations = {
            "global": lambda: self.global_shares,
            "mixed": lambda: self._mix(MIXED),
            "owl": self._by_outliers,
            "progression": self._progression,
            "search": self._search,
        }
        return self.exact(allocations[allocation]())

    @cached_property
    def units(self) -> list[int]:
        """The number of units of each matrix."""
        return [weight.matrix.numel() // (self.pattern.rows * self.pattern.columns) for weight in self.weights]

    @cached_property
    def steps(self) -> list[int]:
        """The number of units that are dropped together: one in each row with a per-row pattern, else 1."""
        return [len(weight.matrix) // self.pattern.rows if self.pattern.per_row else 1 for weight in self.weights]

    @property
    def dropped(self) -> int:
        """The number of units to drop in total."""
        if not self.pattern.per_row:
            return round(self.sparsity * sum(self.units))
        return sum(
            step * round(self.sparsity * (units // step)) for units, step in zip(self.units, self.steps, strict=True)
        )

    @cached_property
    def floors(self) -> list[int]:
        """The least number of units that each matrix keeps."""
        return [max(1, round(FLOOR * (1 - self.sparsity) * units)) for units in self.units]

    @cached_property
    def global_shares(self) -> list[float]:
        """The units of all matrices ranked together, except the best of each matrix, which it keeps as its floor."""
        ranked = []
        for weight, floor in zip(self.weights, self.floors, strict=True):
            scores = self._scores(weight).flatten()
            ranked.append(scores.masked_fill(topk_mask(scores, floor), torch.inf))
        threshold = _threshold(ranked, sum(self.units) - self.dropped)
        return [1 - int((scores > threshold).sum()) / len(scores) for scores in ranked]

    def _mix(self, portion: float) -> list[float]:
        """Shares between uniform (portion 0) and global (portion 1)."""
        return [self.sparsity + portion * (share - self.sparsity) for share in self.global_shares]

    def exact(self, shares: Sequence[float]) -> list[float]:
        """The shares plus a common shift, rounded so that the exact number of units is dropped in total."""
        limits = [
            (units - floor) // step * step
            for units, floor, step in zip(self.units, self.floors, self.steps, strict=True)
        ]

        lowest = self.lowest or [0.0] * len(limits)
        least = [round(share * units) for share, units in zip(lowest, self.units, strict=True)]

        def counts_at(shift: float) -> list[int]:
            return [
                min(max(int((share + shift) * units + 1e-6), low) // step * step, limit)
                for share, units, step, low, limit in zip(shares, self.units, self.steps, least, limits, strict=True)
            ]

        low, high = -1.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(counts_at(middle)) <= self.dropped else (low, middle)
        counts = counts_at(low)
        missing = self.dropped - sum(counts)
        while missing:
            open_matrices = [
                index
                for index, step in enumerate(self.steps)
                if step <= missing and counts[index] + step <= limits[index]
            ]
            if not open_matrices:  # per row: less than one step is missing
                break
            for index in open_matrices:
                if self.steps[index] <= missing:
                    counts[index] += self.steps[index]
                    missing -= self.steps[index]
        return [count / units for count, units in zip(counts, self.units, strict=True)]

    def _scores(self, weight: PrunableWeight) -> Tensor:
        scores = self.score(weight)
        if torch.isnan(scores).any():
            raise PruningError(f"layer {weight.name}: its scores contain NaN")
        return flushed(self.pattern.units(scores))

    def _by_outliers(self) -> list[float]:
        """Blocks with a larger share of outlying scores keep more (Yin et al. 2024, OWL, section 3.2)."""
        outliers = {}
        for layer, members in groupby(self.weights, lambda weight: weight.layer):
            scores = torch.cat([self._scores(weight).flatten() for weight in members])
            outliers[layer] = float((scores > OUTLIER * scores.mean()).float().mean())
        low, high = min(outliers.values()), max(outliers.values())
        width = (high - low) or 1.0
        kept = {layer: 2 * REACH * (share - low) / width for layer, share in outliers.items()}
        mean = sum(kept.values()) / len(kept)
        return [self.sparsity - (kept[weight.layer] - mean) for weight in self.weights]

    def _progression(self) -> list[float]:
        """Sparsity linear in depth, with the slope of the lowest KL divergence (Huang et al. 2025)."""
        depths = _depths(self.weights)
        candidates = [[self.sparsity + slope * depth for depth in depths] for slope in SLOPES]
        return self._best(candidates, "searching the slope")[0]

    def _search(self) -> list[float]:
        """The best mix of uniform and global, improved by moving sparsity between blocks.

        Blocks exchange sparsity under a fixed total as in Sieberling et al. 2024 (EvoPress), one offspring at a time.
        """
        best, lowest = self._best([self._mix(portion) for portion in MIXES], "searching the mix")
        generator = random.Random(0)
        layers = list(dict.fromkeys(weight.layer for weight in self.weights))
        for _ in progress.track(range(MOVES if len(layers) > 1 else 0), "moving sparsity between blocks"):
            giver, taker = generator.sample(layers, 2)
            moves = {giver: -MOVE, taker: MOVE}
            shares = [share + moves.get(weight.layer, 0) for weight, share in zip(self.weights, best, strict=True)]
            kl = self._kl(shares)
            if kl < lowest:
                best, lowest = shares, kl
        return best

    def _best(self, candidates: list[list[float]], doing: str) -> tuple[list[float], float]:
        """The candidate with the lowest KL divergence, and that divergence."""
        kls = [self._kl(shares) for shares in progress.track(candidates, doing)]
        return candidates[kls.index(min(kls))], min(kls)

    def _kl(self, shares: list[float]) -> float:
        assert self.kl is not None
        return self.kl(self.exact(shares))


def _threshold(scores: Sequence[Tensor], kept: int) -> float:
    """A number that exactly `kept` of all float32 scores are above, or fewer with ties.

    Bisection over all float32 numbers, since scores may be of any size. Sorting all scores in one tensor would take
    several times their memory.
    """
    low, high = _float32_index(-math.inf), _float32_index(math.inf)
    while high - low > 1:
        middle = (low + high) // 2
        threshold = _float32_at(middle)
        above = sum(int((matrix > threshold).sum()) for matrix in scores)
        if above == kept:
            return threshold
        low, high = (middle, high) if above > kept else (low, middle)
    return _float32_at(high)


def _float32_index(number: float) -> int:
    """The position of a number in the sorted list of all float32 numbers; that of 0 is 0."""
    bits: int = struct.unpack("<i", struct.pack("<f", number))[0]
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _float32_at(index: int) -> float:
    """The inverse. Subnormal numbers become 0: whether a thread flushes them in comparisons varies."""
    if abs(index) < SMALLEST_NORMAL:
        return 0.0
    bits = index if index >= 0 else -index | 0x80000000
    number: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return number


def _depths(weights: Sequence[PrunableWeight]) -> list[float]:
    """The relative depth of each weight in its list of blocks: −½ in the first block, ½ in the last."""
    lists: dict[str, dict[str, None]] = {}
    for weight in weights:
        lists.setdefault(weight.layer.rsplit(".", 1)[0], {})[weight.layer] = None
    depths = {
        layer: index / max(len(layers) - 1, 1) - 0.5 for layers in lists.values() for index, layer in enumerate(layers)
    }
    return [depths[weight.layer] for weight in weights]
