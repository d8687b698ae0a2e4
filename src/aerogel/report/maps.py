"""Maps of realised sparsity: zeros by layer."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain

from aerogel.analysis.plot import short
from aerogel.report.estimate import percent
from aerogel.report.findings import Findings, Realised
from aerogel.report.names import series_name


@dataclass(frozen=True)
class LayerMap:
    """Zeros by layer (rows) and specified sparsity (columns): the text and the tint of each cell.

    A tint is between -1 and 1: above zero the layer keeps more of its weights than the whole model, at 1 twice as
    many; below zero fewer.
    """

    title: str
    sparsities: list[str]
    rows: list[tuple[str, list[tuple[str, float]]]]


def layer_maps(findings: Findings) -> list[LayerMap]:
    """One for each model and variant, in the order of the specification."""
    spec, series = findings.spec, defaultdict(list)
    for row in sorted(findings.realised, key=lambda row: row.sparsity):
        if row.layers and row.sparsity:
            series[row.model, row.variant].append(row)
    order = [(model, variant) for model in spec.models for variant in spec.scored_variants]
    return [_layer_map(series_name(spec, *key), series[key]) for key in order if key in series]


def _layer_map(name: str, rows: list[Realised]) -> LayerMap:
    layers = dict.fromkeys(chain.from_iterable(row.layers for row in rows))
    return LayerMap(
        f"{name}: zeros by layer, %",
        [percent(row.sparsity) for row in rows],
        [(short(layer), [_cell(row, layer) for row in rows]) for layer in layers],
    )


def _cell(row: Realised, layer: str) -> tuple[str, float]:
    if layer not in row.layers:  # a head of a task that is not scored yet
        return "", 0.0
    kept, usual = 1 - row.layers[layer], 1 - row.prunable
    ratio = math.log2(kept / usual) if kept > 0 and usual > 0 else -1.0
    return f"{100 * row.layers[layer]:.1f}", max(-1.0, min(1.0, ratio))
