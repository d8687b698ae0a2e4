"""Rankings against all pairs, written out, and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from aerogel.tasks import METRICS
from aerogel.tasks.retrieval import Retrieval

RANDOM = np.random.default_rng(0)


def unit(*shape: int) -> np.ndarray:
    values = RANDOM.normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def score(retrieval: Retrieval, name: str) -> float:
    return METRICS[name].function(*retrieval.gains()[name])


@pytest.mark.parametrize("rows", [3, 40, 600])
def test_ndcg_is_that_of_scikit_learn(rows: int) -> None:
    """Every second query is that of the row before, so that queries have one or two relevant texts."""
    texts = [(f"query {row if row % 4 != 1 else row - 1}", f"text {row}", f"other {row}") for row in range(rows)]
    embeddings = unit(rows, 3, 8)
    embeddings[:, 1] = 0.5 * embeddings[:, 0] + 0.5 * embeddings[:, 1]
    embeddings[:, 1] /= np.linalg.norm(embeddings[:, 1], axis=-1, keepdims=True)
    queries = list(dict.fromkeys(query for query, *_ in texts))
    firsts = [next(row for row in range(rows) if texts[row][0] == query) for query in queries]
    candidates = np.concatenate([embeddings[:, 1], embeddings[:, 2]])
    relevance = np.array([[texts[row][0] == query for row in range(rows)] + [False] * rows for query in queries])
    cosines = embeddings[firsts, 0] @ candidates.T
    found = Retrieval.of(texts, embeddings)
    assert score(found, "ndcg_at_10") == pytest.approx(ndcg_score(relevance, cosines, k=10), abs=1e-6)
    top = np.argsort(-cosines)[:, :10]
    recall = np.take_along_axis(relevance, top, 1).sum(1) / relevance.sum(1)
    assert score(found, "recall_at_10") == pytest.approx(recall.mean())
    assert 0 < score(found, "recall_at_10") <= 1


def test_equal_texts_count_once_and_any_pair_of_a_query_is_right() -> None:
    texts = [("a", "x"), ("a", "y"), ("b", "x"), ("c", "z")]
    corners = np.eye(4, dtype=np.float32)
    x, y, z, other = corners
    embeddings = np.stack([np.stack(row) for row in ((x, x), (x, y), (x, x), (other, z))])
    found = Retrieval.of(texts, embeddings)
    assert found.own.tolist() == [0, 1, 0, 2]
    assert found.wanted.tolist() == [2, 2, 1, 1]
    assert found.queries == [0, 2, 3]
    assert found.nearest.shape == (4, 3)
    assert found.found[:3].tolist() == [0, 1, 0], "x is paired with a as well"


def test_a_single_text_is_as_uniform_as_equal_ones() -> None:
    kernels = Retrieval.of([("a",)], unit(1, 1, 5)).kernels
    assert METRICS["uniformity"].function(kernels, np.ones(1)) == 0


def test_texts_alone_are_searched_among_the_others() -> None:
    texts = [("a",), ("b",), ("a",), ("c",)]
    embeddings = unit(4, 1, 5)
    embeddings[2] = embeddings[0]
    found = Retrieval.of(texts, embeddings)
    cosines = embeddings[:, 0] @ embeddings[:, 0].T
    assert found.found[0] == found.found[2] == (1 if cosines[0, 1] > cosines[0, 3] else 2)
    kernels = np.exp(-2 * (2 - 2 * cosines))
    assert found.kernels[1] == pytest.approx((kernels[1, 0] + kernels[1, 3]) / 2, abs=1e-6)
    assert METRICS["uniformity"].function(found.kernels, np.ones(4)) == pytest.approx(np.log(found.kernels.mean()))
