"""Every metric has a name in words and a direction."""

import pytest

from aerogel.report.names import direction, metric_name
from aerogel.tasks import METRICS


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_named_in_words(metric: str) -> None:
    assert "_" not in metric_name(metric)


@pytest.mark.parametrize("metric", METRICS)
def test_perplexities_alone_depend_on_the_tokens_of_a_model(metric: str) -> None:
    text = direction(metric)
    assert text.lower().startswith("higher" if METRICS[metric].higher_is_better else "lower")
    assert ("tokens" in text) == metric.endswith("perplexity")
