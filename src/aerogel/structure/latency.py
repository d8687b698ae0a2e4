"""How long the sub-layers of a model take on this machine's CPU, from timings of whole models."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from aerogel import progress
from aerogel.errors import ModelError
from aerogel.files import cache_home, write_text
from aerogel.models.mode import evaluating, on_cpu
from aerogel.structure.shrink import shrink
from aerogel.structure.sublayers import SubLayer, sublayers
from aerogel.tasks import context_length

Measure = Callable[[PreTrainedModel], float]
"""Returns the seconds of one forward pass of a model, which is on the CPU.

With an attribute `name`, its latency tables are kept in the cache.
"""

SHARES = (0.5, 0.25, 0.0)  # of the structures, at which sub-layers are timed
ROUNDS = 2  # of timings, of which the medians count


@dataclass(frozen=True)
class TorchMeasure:
    """Times a model in PyTorch in this process, on batches of random tokens: the median of a few passes."""

    batch_size: int = 16
    length: int = 64
    repeats: int = 3

    @property
    def name(self) -> str:
        return f"torch {self.batch_size}x{self.length}"

    def __call__(self, model: PreTrainedModel) -> float:
        inputs = self.inputs(model)
        seconds = []
        with torch.inference_mode(), evaluating(model):
            model(**inputs)
            for _ in range(self.repeats):
                started = time.perf_counter()
                model(**inputs)
                seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    def inputs(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        if model.main_input_name != "input_ids":
            raise ModelError(f"{type(model).__name__} reads {model.main_input_name}: the default timing is of text")
        config = model.config
        length = min(self.length, context_length(config) or self.length)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(10, config.vocab_size, (self.batch_size, length), generator=generator)
        if config.is_encoder_decoder and config.eos_token_id is not None:
            ids[:, -1] = config.eos_token_id  # BART's classifier reads the state at the last end-of-sequence token
        inputs = {"input_ids": ids.to(model.device)}
        return inputs | ({"decoder_input_ids": inputs["input_ids"]} if config.is_encoder_decoder else {})


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of a model, and of one sub-layer of each group by the number of its structures.

    Attributes:
        dense: seconds of one forward pass of the whole model.
        seconds: for each group (`group`) pairs of a number of structures, increasing, and the seconds that one
            sub-layer takes longer than without structures.
    """

    dense: float
    seconds: Mapping[str, Sequence[tuple[float, float]]]

    def of(self, sublayer: SubLayer, count: int) -> float:
        """The seconds of a sub-layer with `count` structures, interpolated."""
        points = self.seconds[group(sublayer)]
        index = min(max(bisect_left(points, float(count), key=lambda point: point[0]), 1), len(points) - 1)
        (low, less), (high, more) = points[index - 1], points[index]
        return less + (more - less) * (count - low) / (high - low)


def group(sublayer: SubLayer) -> str:
    """The sub-layers of one kind in one list of blocks, which take equally long: `encoder.layer attention`."""
    return f"{sublayer.stack} {sublayer.kind}"


def latency_table(model: PreTrainedModel, measure: Measure) -> LatencyTable:
    """The table of a model's shape, which is measured once a machine if the measure has a name.

    Each group of sub-layers is timed in whole models whose other sub-layers are as they were.
    """
    name = getattr(measure, "name", None)
    if name is None:
        return _measured(model, measure)
    path = cache_home() / "latency" / f"{_key(model, name)}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        table = LatencyTable(
            float(content["dense"]),
            {str(key): [(float(n), float(s)) for n, s in points] for key, points in content["seconds"].items()},
        )
        if set(table.seconds) == {group(sublayer) for sublayer in sublayers(model)}:
            return table
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # missing or damaged
    table = _measured(model, measure)
    write_text(path, json.dumps(asdict(table)))
    return table


def _measured(model: PreTrainedModel, measure: Measure) -> LatencyTable:
    groups: dict[str, list[SubLayer]] = {}
    for sublayer in sublayers(model):
        groups.setdefault(group(sublayer), []).append(sublayer)
    dense: list[float] = []
    ratios: dict[str, list[dict[float, float]]] = {name: [] for name in groups}
    with on_cpu(model):
        for _, name in progress.track([(i, name) for i in range(ROUNDS) for name in groups], "timing sub-layers"):
            dense.append(measure(model))  # next to the others, since a machine's speed varies
            times = _times(model, groups[name], measure)
            ratios[name].append({count: seconds / dense[-1] for count, seconds in times.items()})
    whole = statistics.median(dense)
    seconds = {}
    for name, rounds in ratios.items():
        mean = statistics.mean(sublayer.count for sublayer in groups[name])
        totals = {count: whole * statistics.median(times[count] for times in rounds) for count in rounds[0]}
        seconds[name] = _points(totals | {mean: whole}, len(groups[name]))
    return LatencyTable(whole, seconds)


def _times(model: PreTrainedModel, members: Sequence[SubLayer], measure: Measure) -> dict[float, float]:
    """Seconds of copies of the model by the mean number of structures that these sub-layers have in it."""
    most = max(sublayer.count for sublayer in members)
    small, times = copy.deepcopy(model), {}
    for count in sorted({round(share * most) for share in SHARES} - {most}, reverse=True):
        now = {sublayer.name: sublayer for sublayer in sublayers(small)}
        kept = {
            sublayer.name: range(min(max(count, sublayer.at_least), now[sublayer.name].count)) for sublayer in members
        }
        shrink(small, kept)
        times[statistics.mean(map(len, kept.values()))] = measure(small)
    return times


def _points(totals: Mapping[float, float], members: int) -> list[tuple[float, float]]:
    """Seconds of one sub-layer above those without structures; never fewer for more structures.

    Some families' packed blocks are not fused with an empty sub-layer, and then slower than with a few structures. An
    empty one then counts as these few, so that it is not chosen for speed.
    """
    counts = sorted(totals)
    is_slower_empty = len(counts) > 2 and totals[counts[0]] > totals[counts[1]]
    if is_slower_empty:
        del counts[0]
    least, next_least = counts[:2]  # the least is above 0 if some sub-layer can't lose all
    slope = (totals[next_least] - totals[least]) / (next_least - least)
    base = totals[least] - max(slope, 0.0) * least
    points = [(0.0, (totals[least] - base) / members if is_slower_empty else 0.0)]
    for count in counts:
        points.append((float(count), max(points[-1][1], (totals[count] - base) / members)))
    return points if least else points[1:]


def _key(model: PreTrainedModel, name: str) -> str:
    shapes: list[Any] = [(key, list(parameter.shape)) for key, parameter in model.named_parameters()]
    structures = [(sublayer.name, sublayer.count, sublayer.size) for sublayer in sublayers(model)]
    dtype, machine = str(model.dtype), [*platform.uname(), torch.get_num_threads(), torch.__version__]
    content = json.dumps([type(model).__name__, shapes, structures, dtype, machine, name])
    return hashlib.sha256(content.encode()).hexdigest()[:24]
