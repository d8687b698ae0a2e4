"""How sparse each matrix becomes, so that all together are exactly as sparse as asked."""

from __future__ import annotations

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

FLOOR = 0.1  # of the density asked for: the least that is left in a matrix, since one pruned whole cuts the network
OUTLIER = 5  # times the mean score of its block makes an outlier, and
REACH = 0.08  # how far a block's sparsity may go from the whole's: the settings of OWL
MIXED = 0.6  # of the way from uniform to global
SLOPES = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)  # of a progression, in sparsity from the first to the last block
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of uniform and global, where the search begins
SMALLEST = 0x00800000  # the bits of the smallest normal float32
MOVE, MOVES = 0.04, 12  # of the search: sparsity that one block gives another, and how often that is tried


@dataclass(frozen=True)
class Allocator:
    """What an allocation decides from.

    Attributes:
        weights: the matrices, in the model's order.
        score: gives the (d_out, d_in) scores by which the method ranks the weights of a matrix.
        pattern: what is dropped as one: a weight or a block; of a per-row pattern, one in each row.
        sparsity: of all matrices together.
        damage: the KL divergence to the dense model when the matrices have the sparsities given;
            "progression" and "search" need it.
    """

    weights: Sequence[PrunableWeight]
    score: Callable[[PrunableWeight], Tensor]
    pattern: Pattern
    sparsity: float
    damage: Callable[[list[float]], float] | None = None

    def shares(self, allocation: Allocation) -> list[float]:
        """The sparsity of each matrix. The units dropped are as many as at one sparsity for all.

        A per-row pattern drops as many in each row, so there the total may lack less than one unit a row of one
        matrix. Raises `PruningError` where the matrices can't all keep their least.
        """
        if allocation == "uniform":
            return [self.sparsity] * len(self.weights)
        if self.pattern.fixed_sparsity is not None:
            raise PruningError(
                f"pattern {self.pattern} fixes the sparsity of every matrix, so its allocation is uniform"
            )
        kept, least = sum(self.units) - self.dropped, sum(self.floors)
        if kept < least:
            raise PruningError(
                f"sparsity {self.sparsity:g} keeps {kept} units, fewer than the {least} that {len(self.units)} "
                "matrices need"
            )
        ways = {
            "global": lambda: self.ranked,
            "mixed": lambda: self._mix(MIXED),
            "owl": self._by_outliers,
            "progression": self._progression,
            "search": self._search,
        }
        return self.exact(ways[allocation]())

    @cached_property
    def units(self) -> list[int]:
        return [weight.matrix.numel() // (self.pattern.rows * self.pattern.columns) for weight in self.weights]

    @cached_property
    def steps(self) -> list[int]:
        """The units that can only be dropped together: one in each row, where the pattern is per row."""
        return [len(weight.matrix) // self.pattern.rows if self.pattern.per_row else 1 for weight in self.weights]

    @property
    def dropped(self) -> int:
        if not self.pattern.per_row:
            return round(self.sparsity * sum(self.units))
        return sum(
            step * round(self.sparsity * (units // step)) for units, step in zip(self.units, self.steps, strict=True)
        )

    @cached_property
    def floors(self) -> list[int]:
        """The units that each matrix keeps whatever happens."""
        return [max(1, round(FLOOR * (1 - self.sparsity) * units)) for units in self.units]

    @cached_property
    def ranked(self) -> list[float]:
        """All units of all matrices ranked together, the best of each matrix aside, up to its floor."""
        ranks = []
        for weight, floor in zip(self.weights, self.floors, strict=True):
            scores = self._scores(weight).flatten()
            ranks.append(scores.masked_fill(topk_mask(scores, floor), torch.inf))
        threshold = _threshold(ranks, sum(self.units) - self.dropped)
        return [1 - int((scores > threshold).sum()) / len(scores) for scores in ranks]

    def _mix(self, globally: float) -> list[float]:
        """That much of the way from one sparsity for all to that of the global ranking."""
        return [self.sparsity + globally * (share - self.sparsity) for share in self.ranked]

    def exact(self, wanted: Sequence[float]) -> list[float]:
        """The shares nearest to `wanted`, moved all alike, that drop the exact number of units in all."""
        most = [
            (units - floor) // step * step
            for units, floor, step in zip(self.units, self.floors, self.steps, strict=True)
        ]

        def counts(shift: float) -> list[int]:
            return [
                min(max(int((share + shift) * units + 1e-6) // step * step, 0), limit)
                for share, units, step, limit in zip(wanted, self.units, self.steps, most, strict=True)
            ]

        low, high = -1.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(counts(middle)) <= self.dropped else (low, middle)
        found = counts(low)
        missing = self.dropped - sum(found)
        while missing:
            able = [
                place for place, step in enumerate(self.steps) if step <= missing and found[place] + step <= most[place]
            ]
            if not able:  # rows of sizes that don't add up: less than one row's step is left
                break
            for place in able:
                if self.steps[place] <= missing:
                    found[place] += self.steps[place]
                    missing -= self.steps[place]
        return [count / units for count, units in zip(found, self.units, strict=True)]

    def _scores(self, weight: PrunableWeight) -> Tensor:
        scores = self.score(weight)
        if torch.isnan(scores).any():
            raise PruningError(f"layer {weight.name}: scores hold values that are not numbers (NaN)")
        return flushed(self.pattern.units(scores))

    def _by_outliers(self) -> list[float]:
        """Blocks with a larger share of outlying scores keep more (Yin et al. 2024, section 3.2)."""
        shares = {}
        for layer, members in groupby(self.weights, lambda weight: weight.layer):
            scores = torch.cat([self._scores(weight).flatten() for weight in members])
            shares[layer] = float((scores > OUTLIER * scores.mean()).float().mean())
        low, high = min(shares.values()), max(shares.values())
        width = (high - low) or 1.0
        keep = {layer: 2 * REACH * (share - low) / width for layer, share in shares.items()}
        mean = sum(keep.values()) / len(keep)
        return [self.sparsity - (keep[weight.layer] - mean) for weight in self.weights]

    def _progression(self) -> list[float]:
        """Sparsity in equal steps over depth, with the slope that does the least damage (Huang et al. 2025)."""
        depths = _depths(self.weights)
        return self._least_damage(
            [[self.sparsity + slope * depth for depth in depths] for slope in SLOPES], "searching the slope"
        )

    def _search(self) -> list[float]:
        """A mix of uniform and global, then sparsity moved between blocks while that lessens the damage.

        Levels are exchanged under the same total as in Sieberling et al. 2024 (EvoPress), one offspring at a time.
        """
        best = self._least_damage([self._mix(share) for share in MIXES], "searching the mix")
        assert self.damage is not None
        least, draw = self.damage(self.exact(best)), random.Random(0)
        layers = list(dict.fromkeys(weight.layer for weight in self.weights))
        for _ in progress.track(range(MOVES if len(layers) > 1 else 0), "moving sparsity between blocks"):
            giver, taker = draw.sample(layers, 2)
            moves = {giver: -MOVE, taker: MOVE}
            tried = [share + moves.get(weight.layer, 0) for weight, share in zip(self.weights, best, strict=True)]
            found = self.damage(self.exact(tried))
            if found < least:
                best, least = tried, found
        return best

    def _least_damage(self, candidates: list[list[float]], doing: str) -> list[float]:
        assert self.damage is not None
        damage = [self.damage(self.exact(shares)) for shares in progress.track(candidates, doing)]
        return candidates[damage.index(min(damage))]


def _threshold(ranks: Sequence[Tensor], kept: int) -> float:
    """A number that `kept` of all float32 scores are above, or fewer where scores are alike.

    Found by halving, since to rank one tensor of them all takes several times their memory; and by halving the list of
    all float32 numbers, since scores may be of any size.
    """
    low, high = _place(-math.inf), _place(math.inf)
    while high - low > 1:
        middle = (low + high) // 2
        above = sum(int((scores > _number(middle)).sum()) for scores in ranks)
        if above == kept:
            return _number(middle)
        low, high = (middle, high) if above > kept else (low, middle)
    return _number(high)


def _place(number: float) -> int:
    """Where a float32 number stands in the list of all, 0 at place 0."""
    bits: int = struct.unpack("<i", struct.pack("<f", number))[0]
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _number(place: int) -> float:
    """The inverse, but 0 for numbers too small to be normal: a comparison with them depends on the thread."""
    if abs(place) < SMALLEST:
        return 0.0
    bits = place if place >= 0 else -place | 0x80000000
    number: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return number


def _depths(weights: Sequence[PrunableWeight]) -> list[float]:
    """Where in its list of blocks each weight stands: −½ in the first block, ½ in the last."""
    lists: dict[str, dict[str, None]] = {}
    for weight in weights:
        lists.setdefault(weight.layer.rsplit(".", 1)[0], {})[weight.layer] = None
    places = {
        layer: place / max(len(layers) - 1, 1) - 0.5 for layers in lists.values() for place, layer in enumerate(layers)
    }
    return [places[weight.layer] for weight in weights]
