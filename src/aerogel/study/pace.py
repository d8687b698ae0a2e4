"""How long a study's open trials will take."""

import time
from collections import defaultdict
from collections.abc import Iterable
from statistics import mean

from aerogel.study.results import Done, Outcome
from aerogel.study.trial import Scoring, Trial

# A guess of a trial's time, in epochs of training on its task: it counts until a trial of the kind has ended.
EPOCHS = {"weights": 0.05, "sensitivity": 0.3, "scoring": 0.1, "benchmark": 0.1}


class Pace:
    """Estimates the time left from the trials that have ended: another of the same kind is expected to take as long."""

    def __init__(self, outcomes: Iterable[tuple[Trial, Outcome]]) -> None:
        """`outcomes` are those of an earlier run of the study."""
        self.seconds: dict[tuple[str, float], list[float]] = defaultdict(list)
        self.started: dict[Trial, float] = {}
        self.width = 1  # trials that have run at the same time
        for trial, outcome in outcomes:
            self.add(trial, outcome)

    def add(self, trial: Trial, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            self.seconds[trial.kind, _epochs(trial)].append(outcome.seconds)

    def left(self, trials: Iterable[Trial], running: Iterable[Trial]) -> float | None:
        """Seconds until `trials`, of which some are `running`, have ended. `None` if none has ended before."""
        now = time.monotonic()
        self.started = {trial: self.started.get(trial, now) for trial in running}
        self.width = max(self.width, len(self.started))
        if not self.seconds:
            return None
        total = 0.0
        for trial in trials:
            seconds = max(0.0, self._expected(trial) - (now - self.started.get(trial, now)))
            total += seconds if trial.runs_alone else seconds / self.width
        return total

    def _expected(self, trial: Trial) -> float:
        epochs = _epochs(trial)
        if known := self.seconds.get((trial.kind, epochs)):
            return mean(known)
        ended = sum(epochs * len(seconds) for (_, epochs), seconds in self.seconds.items())
        return epochs * sum(map(sum, self.seconds.values())) / ended


def _epochs(trial: Trial) -> float:
    epochs = EPOCHS[trial.kind]
    if isinstance(trial, Scoring):
        epochs += trial.training.epochs if trial.is_dense else trial.epochs
    return epochs
