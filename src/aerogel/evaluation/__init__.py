"""What is left: metrics of tasks, perplexity, agreement with another model."""

from aerogel.evaluation.comparison import Flips, Interval, evaluate
from aerogel.evaluation.scoring import PERPLEXITIES, Score, score

__all__ = ["PERPLEXITIES", "Flips", "Interval", "Score", "evaluate", "score"]
