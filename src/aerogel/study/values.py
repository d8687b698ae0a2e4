"""What a result holds, by kind of trial: the content of a store is checked against these records when it is read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from aerogel.analysis import WeightReport, WeightStatistics
from aerogel.benchmark import Measurement
from aerogel.errors import excerpt
from aerogel.pruning import Sensitivity

COUNTS = ("examples", "tokens", "loss", "majority")  # stand beside the metrics of a score and are none themselves
LARGEST = 1e305  # so that a mean can be taken of any values


def _sensible(value: float) -> float:
    if abs(value) > LARGEST:  # NaN is not, and is a result
        raise ValueError(f"expected a number of at most {LARGEST:g}")
    return value


Number = Annotated[float, AfterValidator(_sensible)]
Numbers = Annotated[tuple[Number, ...], Field(min_length=1)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Share = Annotated[float, Field(ge=0, le=1)]
Natural = Annotated[int, Field(ge=0, le=2**62)]
Positive = Annotated[int, Field(gt=0, le=2**62)]


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)


@dataclass(frozen=True)
class Machine:
    """The environment that a trial ran in: see `aerogel.benchmark.environment`."""

    processor: str
    cores: Natural
    memory_gb: Number
    threads: Natural
    instructions: str
    system: str
    python: str
    versions: dict[str, str]


@dataclass(frozen=True)
class ScoreValues:
    """The values of a `score` trial: see `aerogel.evaluation.Score`; `layers` has the share of zeros by weight."""

    metrics: dict[str, Number]
    predictions: Numbers
    training_seconds: Seconds
    training_steps: Natural
    sparsity: Share
    model_sparsity: Share
    layers: dict[str, Share]
    source: str
    dense_seconds: Seconds | None = None
    true: tuple[Number, ...] = ()
    logits: tuple[Annotated[tuple[float, ...], Field(min_length=1)], ...] = ()

    def __post_init__(self) -> None:
        _require(any(name not in COUNTS for name in self.metrics), "metrics has none")
        for name, found in (("true", self.true), ("logits", self.logits)):
            _require(len(found) in (0, len(self.predictions)), f"{name} and predictions differ in length")
        _require(len(set(map(len, self.logits))) < 2, "logits differ in length")


@dataclass(frozen=True)
class InspectValues:
    """The values of an `inspect` trial."""

    weights: WeightReport

    def __post_init__(self) -> None:
        low, high = self.weights.span
        _require(-LARGEST < low < high < LARGEST, "span is not an interval")
        whole = self.weights.whole
        for group in (whole, *self.weights.layers, *self.weights.kinds, *self.weights.matrices):
            self._check_group(group, whole)

    @staticmethod
    def _check_group(group: WeightStatistics, whole: WeightStatistics) -> None:
        numbers = (group.mean, group.std, group.kurtosis, *group.quantiles, group.below_1e_3, group.below_1e_2)
        _require(0 < group.count < 2**62, f"{group.name}: count is not above 0")
        _require(
            all(math.isfinite(number) and abs(number) < LARGEST for number in numbers), f"{group.name}: not finite"
        )
        for name in ("quantiles", "histogram"):
            found, expected = len(getattr(group, name)), len(getattr(whole, name))
            _require(found == expected > 3, f"{group.name}: {name} has {found} values")
        _require(all(0 <= count < 2**62 for count in group.histogram), f"{group.name}: histogram is below 0")


@dataclass(frozen=True)
class SensitivityValues:
    """The values of a `sensitivity` trial."""

    sensitivity: Sensitivity

    def __post_init__(self) -> None:
        columns = self.sensitivity.sparsities
        rows = (*self.sensitivity.layers, *self.sensitivity.kinds)
        _require(len(columns) > 0 and len(rows) > 0, "there is no row or no sparsity")
        _require(all(len(values) == len(columns) for _, values in rows), "rows and sparsities differ in length")


@dataclass(frozen=True)
class BenchValues:
    """The values of a `bench` trial: the dense model's first."""

    measurements: Annotated[tuple[Measurement, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        first = self.measurements[0]
        _require(not first.compressed, "the dense model is not the first")
        for found in self.measurements:
            times = (*found.latencies, *found.training_steps)
            _require(len(found.latencies) == len(first.latencies) > 0, "latencies differ in number")
            _require(all(0 < seconds < 1e12 for seconds in times), "seconds are not above 0")
            for name in ("parameter_bytes", "file_bytes", "batch_size"):
                _require(0 < getattr(found, name) < 2**62, f"{name} is not above 0")
            for name in ("inference_memory", "training_memory"):
                _require(abs(getattr(found, name) or 0) < 2**62, f"{name} is too large")


@dataclass(frozen=True)
class Stored:
    """A result as a store has it, its values apart."""

    status: Literal["done", "failed"]
    values: dict[str, Any]
    environment: dict[str, Any]
    seconds: Seconds
    error: str | None = None


STORED, MACHINE = TypeAdapter(Stored), TypeAdapter(Machine)
VALUES: dict[str, TypeAdapter[Any]] = {
    "inspect": TypeAdapter(InspectValues),
    "sensitivity": TypeAdapter(SensitivityValues),
    "score": TypeAdapter(ScoreValues),
    "bench": TypeAdapter(BenchValues),
}


def check_result(kind: str, result: Any) -> None:
    """Raises `ValueError`, naming the field, for what is not the result of a trial of this kind, read from JSON."""

    def check(record: TypeAdapter[Any], values: Any) -> None:
        record.validate_json(json.dumps(values), strict=True)  # of JSON a strict tuple is a list

    try:
        check(STORED, result)
        if result["status"] == "done":
            check(VALUES[kind], result["values"])
        if result["status"] == "done" or result["environment"]:  # a trial whose process died has none
            check(MACHINE, result["environment"])
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong: where, what, and what was there."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    said = first["msg"].removeprefix("Value error, ")  # pydantic's own, before what a check here says
    return f"{field}: {said} (found {excerpt(first['input'])})" if field else said
