"""The findings of a study as tidy rows: by model, variant and sparsity."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean

from aerogel.analysis import WeightReport
from aerogel.benchmark import Measurement
from aerogel.evaluation import Flips
from aerogel.pruning import Sensitivity
from aerogel.report.estimate import Estimate
from aerogel.structure import Removed
from aerogel.study import StudySpec
from aerogel.study.results import Machine, ScoringResult
from aerogel.study.trial import Scoring
from aerogel.study.variant import Variant


@dataclass(frozen=True)
class Scored:
    """A model fine-tuned and scored on one task at one sparsity, over seeds.

    Attributes:
        metrics: the main one first.
        kept: the share of the main metric of the dense model with the same training and seeds: `pruned / dense` where
            higher is better, and `dense / pruned` where lower is, as for a perplexity. `None` without such a model, or
            where the mean of its metric is not above 0.
        agreement: share of predictions equal to that model's. `None` without such a model, and for a regression.
        training_seconds: of the recovery, if it follows `dense_seconds` of training.
        one_answer: number of seeds whose model gives the same prediction for all examples.
        counted: number of examples or tokens; `unit` is which of the two.
        majority: share of the most frequent class; `None` without classes.
        kl: mean KL divergence from the dense model's predictions in nats, for classes.
        flips: predictions that changed, for each seed, for classes.
    """

    task: str
    model: str
    variant: Variant
    sparsity: float
    seeds: tuple[int, ...]
    metrics: dict[str, Estimate]
    kept: Estimate | None
    agreement: Estimate | None
    training_seconds: Estimate
    one_answer: int
    counted: int
    unit: str = "examples"
    dense_seconds: Estimate | None = None
    majority: float | None = None
    kl: Estimate | None = None
    flips: tuple[Flips, ...] = ()

    @property
    def main(self) -> str:
        return next(iter(self.metrics))

    @property
    def value(self) -> Estimate:
        return self.metrics[self.main]


@dataclass(frozen=True)
class Cost:
    """Measurements of a model at one sparsity, stored dense or compressed, and of the dense one in the same rounds."""

    model: str
    variant: Variant
    sparsity: float
    own: Measurement
    dense: Measurement | None

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the dense model: the ratio of median latencies."""
        return self.dense.median / self.own.median if self.dense else None

    @property
    def speedups(self) -> tuple[float, ...]:
        """The same, round by round."""
        if self.dense is None:
            return ()
        return tuple(dense / own for dense, own in zip(self.dense.latencies, self.own.latencies, strict=True))


@dataclass(frozen=True)
class Kept:
    """How many of the `original` heads or neurons of a sub-layer are `kept`, on average."""

    name: str
    kind: str  # heads or neurons
    kept: float
    original: int


def mean_kept(structures: Iterable[Iterable[Removed | Kept]]) -> tuple[Kept, ...]:
    """What each sub-layer keeps, averaged over several models."""
    parts: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for part in chain.from_iterable(structures):
        parts[part.name, part.kind, part.original].append(part.kept)
    return tuple(Kept(name, kind, fmean(kept), original) for (name, kind, original), kept in parts.items())


@dataclass(frozen=True)
class Realised:
    """The zeros counted after training, means over tasks and seeds.

    `prunable` and `whole` are shares of the prunable and of all weights; `structure` is what each sub-layer has kept.
    """

    model: str
    variant: Variant
    sparsity: float
    prunable: float
    whole: float
    parameters: float
    structure: tuple[Kept, ...] = ()


Group = tuple[str, str, Variant, float]


@dataclass(frozen=True)
class Run:
    """One scoring trial and its result."""

    trial: Scoring
    result: ScoringResult

    @property
    def group(self) -> Group:
        return self.trial.task, self.trial.model, self.trial.variant, self.trial.sparsity

    @property
    def seed(self) -> int:
        return self.trial.training.seed

    @property
    def metrics(self) -> dict[str, float]:
        """The main one first; without the loss, which is the logarithm of the perplexity."""
        return {name: value for name, value in self.result.score.metrics.items() if name != "loss"}


@dataclass(frozen=True)
class Findings:
    """Everything that the report shows.

    `open` has the labels of trials, and `failed` has them by error. `costs` are of models stored dense in float32, and
    `compressed` of models with packed layers.
    """

    spec: StudySpec
    total: int
    done: int
    failed: dict[str, list[str]]
    open: list[str]
    weights: dict[str, WeightReport]
    sensitivities: dict[str, Sensitivity]
    runs: list[Run]
    scores: list[Scored]
    costs: list[Cost]
    compressed: list[Cost]
    realised: list[Realised]
    sources: dict[str, list[str]]
    machines: list[tuple[Machine, int]]
    threads: dict[str, list[int]]

    @cached_property
    def best_costs(self) -> dict[tuple[str, Variant, float], Cost]:
        """By model, variant and sparsity: compressed, or stored dense if no layer is packed."""
        return {(cost.model, cost.variant, cost.sparsity): cost for cost in (*self.costs, *self.compressed)}

    def cost(self, row: Scored) -> Cost | None:
        """The cost of a scored model, if it was measured."""
        variant = self.spec.measured_variant(row.variant)
        return self.best_costs.get((row.model, variant if row.sparsity else variant.unpruned, row.sparsity))
