"""More texts like those of a task, for a teacher to label."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from aerogel.tasks.read import Examples

SHORTEST = 0.3  # of a text's words: the shortest part that stands for it
JOINED = 0.5  # of the new texts are put together of two parts
REPLACED = 0.1  # of their words give way to others of the split


class AugmentedExamples(Sequence[dict[str, Any]]):
    """A task's examples, encoded; each epoch anew, a `share` of their texts give way to others made of them.

    A new text is a part of the old one, or half of it and a part of another text's, with a tenth of its words
    replaced by words of the split; it is no longer than the old one. In pairs each side has it done to it, and the
    second is at times made from the first in place of the old one. Their labels are the old ones, and mean nothing.
    What an epoch holds depends on `seed` and the epoch alone. (Labels from the teacher for phrases and for texts with
    words replaced: Tang et al. 2019, arXiv:1903.12136, section 3.2; Jiao et al. 2020, arXiv:1909.10351, section 3.3.)
    """

    def __init__(
        self,
        examples: Examples,
        encode: Callable[[Examples], list[dict[str, Any]]],
        share: float,
        seed: int,
    ) -> None:
        self.examples, self.encode, self.share, self.seed, self.epoch = examples, encode, share, seed, 0
        self.encoded = encode(examples)
        self.words = [[text.split() for text in texts] for texts in examples.texts]
        self.bag = [word for texts in self.words for text in texts for word in text]

    def set_epoch(self, epoch: int) -> None:
        """Called by the loader of batches before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, place: Any) -> Any:
        chance = random.Random(f"{self.seed} {self.epoch} {place}")
        if chance.random() >= self.share:
            return self.encoded[place]
        texts = tuple(" ".join(words) for words in self._made(place, chance))
        return self.encode(Examples([texts], [self.examples.labels[place]]))[0]

    def _made(self, place: int, chance: random.Random) -> list[list[str]]:
        sources = list(self.words[place])
        if len(sources) == 2 and chance.random() < JOINED:
            sources[1] = sources[0]
        return [self._like(words, chance) for words in sources]

    def _like(self, words: list[str], chance: random.Random) -> list[str]:
        if chance.random() < JOINED:
            other = chance.choice(chance.choice(self.words))
            half = max(1, len(words) // 2)
            made = (_part(words, half, chance) + _part(other, half, chance))[: len(words)]
        else:
            made = _part(words, round(len(words) * chance.uniform(SHORTEST, 1)), chance)
        return [chance.choice(self.bag) if chance.random() < REPLACED else word for word in made]


def _part(words: list[str], count: int, chance: random.Random) -> list[str]:
    """So many neighbouring words, from anywhere; all where there are no more."""
    count = min(len(words), max(1, count))
    start = chance.randrange(len(words) - count + 1)
    return words[start : start + count]
