"""The texts that are nearest to each of several queries, by the cosine of their embeddings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

RANKS = 10  # of a ranking that count
CHUNK = 512  # queries at a time


@dataclass(frozen=True)
class Retrieval:
    """For the first text of each row the nearest of the other texts of all rows, or of texts alone among themselves.

    Equal texts count once. What is paired with the first text in any row is relevant to it.

    Attributes:
        own: (rows), the number of the text that the first one is paired with; of texts alone its own.
        nearest: (rows, up to 10), the numbers of the nearest texts.
        relevant: (rows, up to 10), whether these are relevant.
        wanted: (rows), how many relevant texts there are.
        kernels: (rows), the mean of exp(−2‖a − b‖²) over the texts.
        queries: the first row of each different first text.
    """

    own: np.ndarray
    nearest: np.ndarray
    relevant: np.ndarray
    wanted: np.ndarray
    kernels: np.ndarray
    queries: list[int]

    @classmethod
    def of(cls, texts: Sequence[tuple[str, ...]], embeddings: np.ndarray) -> Retrieval:
        """`embeddings` (rows, texts of a row, width) have length 1."""
        alone = len(texts[0]) == 1
        columns = list(zip(*texts, strict=True))
        searched = range(1 - alone, len(columns))
        names = [text for column in searched for text in columns[column]]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(names))}
        first = {text: place for place, text in reversed(list(enumerate(names)))}
        candidates = np.concatenate([embeddings[:, column] for column in searched])[[first[text] for text in numbers]]
        own = np.array([numbers[text] for text in names[: len(texts)]])
        nearest, kernels = _search(embeddings[:, 0], candidates, own if alone else None)

        pairs: defaultdict[str, set[int]] = defaultdict(set)
        for query, number in zip(columns[0], own.tolist(), strict=True):
            pairs[query].add(number)
        relevant = [[number in pairs[query] for number in row] for query, row in zip(columns[0], nearest, strict=True)]
        wanted = np.array([len(pairs[query]) for query in columns[0]])
        rows = {query: row for row, query in reversed(list(enumerate(columns[0])))}
        return cls(own, nearest, np.array(relevant), wanted, kernels, sorted(rows.values()))

    @property
    def found(self) -> np.ndarray:
        """(rows), the number of the nearest text, or that of the row's own if both are relevant."""
        return np.where(self.relevant[:, 0], self.own, self.nearest[:, 0])

    def gains(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What each different query gains in 10 ranks, and the most that it could, by metric.

        nDCG discounts a relevant text at rank r by log2(r + 1) (Järvelin & Kekäläinen 2002).
        """
        relevant, wanted = self.relevant[self.queries], self.wanted[self.queries]
        discounts = 1 / np.log2(np.arange(2, RANKS + 2))
        ideal = discounts.cumsum()[np.minimum(wanted, RANKS) - 1]
        gained = relevant @ discounts[: relevant.shape[1]]
        return {"ndcg_at_10": (gained, ideal), "recall_at_10": (relevant.sum(1), wanted)}


def _search(queries: np.ndarray, candidates: np.ndarray, left_out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The nearest candidates of each query, without the one that is `left_out`, and the mean kernel."""
    nearest, kernels = [], []
    table = torch.from_numpy(candidates).T
    count = len(candidates) if left_out is None else max(1, len(candidates) - 1)
    for start in range(0, len(queries), CHUNK):
        chunk = slice(start, start + CHUNK)
        cosines = torch.from_numpy(queries[chunk]) @ table
        if left_out is not None:
            cosines[torch.arange(len(cosines)), torch.from_numpy(left_out[chunk])] = -torch.inf
        nearest.append(cosines.topk(min(RANKS, count)).indices)
        kernels.append((4 * cosines - 4).exp().sum(1) / count)  # ‖a − b‖² = 2 − 2 cos
    if left_out is not None and len(candidates) == 1:  # a text alone covers no more of the sphere than equal ones
        kernels = [torch.ones(len(queries))]
    return torch.cat(nearest).numpy(), torch.cat(kernels).double().numpy()
