"""Changed texts of a task, for a teacher to label."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from aerogel.tasks.read import Examples

Words = list[list[str]]
"""Those of each text of an example."""

SHORTEST = 0.3  # share of a text's words in the shortest part that replaces it
JOINED = 0.5  # share of new texts that join two parts
REPLACED = 0.1  # share of words that others of the split replace


class AugmentedExamples(Sequence[dict[str, Any]]):
    """Encoded examples of a task, of which each epoch replaces a `share` by changed ones.

    A new text is a part of the old one, or half of it joined with a part of another text, with a tenth of its words
    replaced by words of the split; it is not longer than the old one. In a pair both texts are changed, and half of the
    time the second is made from the first. New texts keep the old labels, which mean nothing. An epoch depends only on
    `seed` and its number. (A teacher's labels for phrases and for texts with words replaced: Tang et al. 2019,
    arXiv:1903.12136, section 3.2; Jiao et al. 2020, arXiv:1909.10351, section 3.3.)
    """

    def __init__(self, examples: Any, encode: Callable[[Any], list[dict[str, Any]]], share: float, seed: int) -> None:
        self.examples, self.encode, self.share, self.seed, self.epoch = examples, encode, share, seed, 0
        self.encoded = encode(examples)
        self.words = self.split(examples)
        self.bag = [word for texts in self.words for text in texts for word in text]

    def set_epoch(self, epoch: int) -> None:
        """The data loader calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: Any) -> Any:
        chance = random.Random(f"{self.seed} {self.epoch} {index}")
        if chance.random() >= self.share:
            return self.encoded[index]
        return self.encode(self.joined(index, self._changed_example(index, chance)))[0]

    def split(self, examples: Any) -> list[Words]:
        """The words of each example; a subclass may have examples of another type than `Examples`."""
        return [[text.split() for text in texts] for texts in examples.texts]

    def joined(self, index: int, words: Words) -> Any:
        """One example with these words in place of its own."""
        return Examples([tuple(map(" ".join, words))], [self.examples.labels[index]])

    def _changed_example(self, index: int, chance: random.Random) -> Words:
        sources = list(self.words[index])
        if len(sources) == 2 and chance.random() < JOINED:
            sources[1] = sources[0]
        return [self._changed_text(words, chance) for words in sources]

    def _changed_text(self, words: list[str], chance: random.Random) -> list[str]:
        if chance.random() < JOINED:
            other = chance.choice(chance.choice(self.words))
            half = max(1, len(words) // 2)
            parts = (_part(words, half, chance) + _part(other, half, chance))[: len(words)]
        else:
            parts = _part(words, round(len(words) * chance.uniform(SHORTEST, 1)), chance)
        return [chance.choice(self.bag) if chance.random() < REPLACED else word for word in parts]


def _part(words: list[str], count: int, chance: random.Random) -> list[str]:
    """Up to `count` consecutive words from a random position."""
    count = min(len(words), max(1, count))
    start = chance.randrange(len(words) - count + 1)
    return words[start : start + count]
