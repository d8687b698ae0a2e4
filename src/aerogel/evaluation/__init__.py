"""What is left: metrics of tasks, perplexity, agreement with another model."""

from aerogel.evaluation.scoring import PERPLEXITIES, Score, evaluate, score

__all__ = ["PERPLEXITIES", "Score", "evaluate", "score"]
