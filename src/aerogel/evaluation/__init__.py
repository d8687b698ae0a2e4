"""Scores on tasks, and agreement with another model."""

from aerogel.evaluation.comparison import Comparison, Flips, Interval
from aerogel.evaluation.conclusion import below_chance, conclusion, meaning
from aerogel.evaluation.evaluation import Evaluation, TaskEvaluation, evaluate
from aerogel.evaluation.scoring import score
from aerogel.tasks import Score

__all__ = [
    "Comparison",
    "Evaluation",
    "Flips",
    "Interval",
    "Score",
    "TaskEvaluation",
    "below_chance",
    "conclusion",
    "evaluate",
    "meaning",
    "score",
]
