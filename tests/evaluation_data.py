"""The tasks that the tests of evaluation score: moods of sentences, a value for each, and a story."""

import dataclasses

from aerogel.tasks import TASKS, Examples, TaskData
from builders import prose, sentence_data, sentences, text_data

ROWS = sentences(45)
MOODS = sentence_data(ROWS, metrics=("accuracy", "f1")).task
TEXT = prose(50)


def moods() -> TaskData:
    return sentence_data(ROWS, metrics=("accuracy", "f1"))


def similarities() -> TaskData:
    task = dataclasses.replace(TASKS["stsb"], columns=("sentence",))
    examples = Examples([(text,) for text, _ in ROWS], [place / 10 for place in range(len(ROWS))])
    return TaskData(task, {"train": examples, "validation": examples}, "made")


def story() -> TaskData:
    return text_data(TEXT)
