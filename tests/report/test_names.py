"""Every metric has a name in words and a direction."""

import pytest

from aerogel.report.names import metric_name
from aerogel.report.prose import direction
from aerogel.tasks import METRICS


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_named_in_words(metric: str) -> None:
    assert "_" not in metric_name(metric)


@pytest.mark.parametrize("metric", METRICS)
def test_perplexities_alone_depend_on_the_tokens_of_a_model(metric: str) -> None:
    said = direction(metric)
    assert said.startswith("higher" if METRICS[metric].higher_is_better else "lower")
    assert ("tokens" in said) == metric.endswith("perplexity")
