"""Results and outcomes of trials. They are checked when they are read from a store."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from aerogel.analysis import WeightReport, WeightStatistics
from aerogel.benchmark import Measurement
from aerogel.errors import excerpt
from aerogel.pruning import Sensitivity
from aerogel.structure import Removed
from aerogel.tasks import METRICS, Score
from aerogel.training import TrainingResult

KINDS = ("heads", "neurons")
LARGEST = 1e305  # so that a mean of any values can be taken
STRICT = ConfigDict(strict=True, extra="forbid")  # holds for the dataclasses within, too

Seconds = Annotated[float, Field(ge=0, le=1e12)]
Share = Annotated[float, Field(ge=0, le=1)]
Natural = Annotated[int, Field(ge=0, le=2**62)]


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


@dataclass(frozen=True)
class Machine:
    """The environment that a trial ran in: see `aerogel.benchmark.environment`. `node` is its name in a cluster."""

    processor: str
    cores: Natural
    memory_gb: Annotated[float, Field(ge=0, le=LARGEST)]
    threads: Natural
    instructions: str
    system: str
    python: str
    versions: dict[str, str]
    node: str | None = None


def _check_weights(report: WeightReport) -> WeightReport:
    low, high = report.span
    _require(-LARGEST < low < high < LARGEST, "span is not an interval")
    for group in (report.whole, *report.layers, *report.kinds, *report.matrices):
        _check_group(group, report.whole)
    return report


def _check_group(group: WeightStatistics, whole: WeightStatistics) -> None:
    numbers = (group.mean, group.std, group.kurtosis, *group.quantiles, group.below_1e_3, group.below_1e_2)
    _require(0 < group.count < 2**62, f"{group.name}: count is not above 0")
    _require(all(math.isfinite(number) and abs(number) < LARGEST for number in numbers), f"{group.name}: not finite")
    for name in ("quantiles", "histogram"):
        length, expected = len(getattr(group, name)), len(getattr(whole, name))
        _require(length == expected > 3, f"{group.name}: {name} has {length} values")
    _require(all(0 <= count < 2**62 for count in group.histogram), f"{group.name}: histogram is below 0")


def _check_sensitivity(sensitivity: Sensitivity) -> Sensitivity:
    columns, rows = len(sensitivity.sparsities), (*sensitivity.layers, *sensitivity.kinds)
    _require(columns > 0 and len(rows) > 0, "no row or no sparsity")
    _require(all(len(values) == columns for _, values in rows), "rows and sparsities differ in length")
    return sensitivity


CheckedWeights = Annotated[WeightReport, AfterValidator(_check_weights)]
CheckedSensitivity = Annotated[Sensitivity, AfterValidator(_check_sensitivity)]


@dataclass(frozen=True)
class ScoringResult:
    """A fine-tuned model's score.

    Attributes:
        training: the training that followed the pruning, or that of the dense model if nothing is pruned.
        dense_seconds: seconds of the dense model's fine-tuning, if the trial started from one.
        sparsity: share of zeros among the prunable weights; `model_sparsity` is that among all `parameters`.
        layers: share of zeros of each prunable matrix.
        source: where the data came from.
        structure: what each sub-layer has kept, empty for a model with all its heads and neurons.
    """

    score: Score
    training: TrainingResult
    dense_seconds: Seconds | None
    sparsity: Share
    model_sparsity: Share
    layers: dict[str, Share]
    parameters: Natural
    source: str
    structure: tuple[Removed, ...] = ()

    def __post_init__(self) -> None:
        score, training = self.score, self.training
        for part in self.structure:
            _require(part.kind in KINDS, f"structure: {excerpt(part.kind)} is not one of {', '.join(KINDS)}")
            _require(
                0 <= part.kept <= part.original < 2**62, f"structure: {excerpt(part.name)} keeps more than the original"
            )
            _require(part.original > 0, f"structure: {excerpt(part.name)} had nothing")
        for name in ("metrics", "predictions", "counts"):
            _require(len(getattr(score, name)) > 0, f"{name} is empty")
        for name, value in score.metrics.items():
            _require(name in METRICS, f"metrics: {excerpt(name)} is not a metric")
            _require(not abs(value) > LARGEST, f"metrics.{name} is {value}")  # NaN is a result
        numbers = [value for value in (*score.predictions, *score.references) if not isinstance(value, str)]
        _require(not any(abs(value) > LARGEST for value in numbers), "predictions: too large")
        for field, values in (("references", score.references), ("logits", score.logits)):
            _require(len(values) in (0, len(score.predictions)), f"{field} and predictions differ in length")
        _require(len(set(map(len, score.logits))) < 2, "logits differ in length")
        _require(all(score.logits), "logits has an empty row")
        _require(all(0 < count < 2**62 for count in score.counts.values()), "counts are not above 0")
        _require(0 <= training.seconds < 1e12, "training.seconds is not a time")
        _require(0 <= training.steps < 2**62, "training.steps is not a number of steps")


@dataclass(frozen=True)
class BenchmarkResult:
    """The measurements of the dense model, and in the same rounds of the pruned model, stored dense and compressed.

    `compressed` is `None` if no layer has enough zeros to be packed.
    """

    dense: Measurement
    pruned: Measurement | None = None
    compressed: Measurement | None = None

    def __post_init__(self) -> None:
        for measurement, compressed in ((self.dense, False), (self.pruned, False), (self.compressed, True)):
            if measurement:
                _require(measurement.compressed == compressed, "dense and compressed models are mixed up")
                self._check(measurement)

    def _check(self, measurement: Measurement) -> None:
        times = (*measurement.latencies, *measurement.training_steps)
        _require(len(measurement.latencies) == len(self.dense.latencies) > 0, "latencies differ in number")
        _require(all(0 < seconds < 1e12 for seconds in times), "seconds are not above 0")
        for name in ("parameter_bytes", "file_bytes", "batch_size"):
            _require(0 < getattr(measurement, name) < 2**62, f"{name} is not above 0")
        for name in ("inference_memory", "training_memory"):
            _require(abs(getattr(measurement, name) or 0) < 2**62, f"{name} is too large")


Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The outcome of a successful trial."""

    __pydantic_config__ = STRICT

    result: Result
    machine: Machine
    seconds: Seconds


@dataclass(frozen=True)
class Failed:
    """The outcome of a trial that raised an error, or whose process died or ran out of memory.

    `machine` is `None` for the last two.
    """

    __pydantic_config__ = STRICT

    error: str
    seconds: Seconds
    machine: Machine | None = None


Outcome = Done[Any] | Failed
T = TypeVar("T")


def read_json(adapter: TypeAdapter[T], text: str) -> T:
    """The record in a JSON text. Raises `ValueError`, naming the field, for any other content."""
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic reports: its field, what it is, and the value."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    problem = first["msg"].removeprefix("Value error, ")  # pydantic's own, before what a check here says
    return f"{field}: {problem} (found {excerpt(first['input'])})" if field else problem
