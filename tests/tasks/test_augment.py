"""Texts put together for a teacher to label: made of the split's own words, and the same for the same epoch."""

from collections.abc import Callable
from functools import partial

import pytest

from aerogel.models import Head, load
from aerogel.tasks import Examples
from aerogel.tasks.augment import AugmentedExamples
from aerogel.tasks.encode import encode_examples
from builders import sentences

SINGLE = Examples([(text,) for text, _ in sentences(60)], [label for _, label in sentences(60)])
PAIRS = Examples([(text, text.upper()) for text, _ in sentences(60)], SINGLE.labels)
Make = Callable[..., AugmentedExamples]


@pytest.fixture(scope="module")
def make() -> Make:
    model, tokenizer = load("tiny-bert", Head("classification", ("no", "yes")))

    def augmented(examples: Examples = SINGLE, share: float = 1.0, seed: int = 0, epoch: int = 0) -> AugmentedExamples:
        encode = partial(encode_examples, tokenizer=tokenizer, config=model.config, max_length=64)
        made = AugmentedExamples(examples, encode, share, seed)
        made.set_epoch(epoch)
        return made

    return augmented


def made_texts(made: AugmentedExamples) -> list[tuple[str, ...]]:
    seen: list[tuple[str, ...]] = []
    encode = made.encode
    made.encode = lambda rows: (seen.extend(rows.texts), encode(rows))[1]
    list(made)
    return seen


def test_each_epoch_holds_others_and_the_same_epoch_the_same(make: Make) -> None:
    first, again, later, other = make(), make(), make(epoch=1), make(seed=1)
    assert [first[place] for place in reversed(range(60))][::-1] == list(again)  # in whatever order it is read
    assert list(first) != list(later)
    assert list(first) != list(other)
    assert len(first) == len(list(first)) == 60


def test_the_share_says_how_many_give_way(make: Make) -> None:
    plain = make(share=0.0)
    assert list(plain) == plain.encoded
    half = make(share=0.5)
    same = sum(new == old for new, old in zip(half, half.encoded, strict=True))
    assert 15 < same < 45


@pytest.mark.parametrize("examples", [SINGLE, PAIRS], ids=["sentences", "pairs"])
def test_new_texts_are_of_the_split_s_words_and_no_longer(make: Make, examples: Examples) -> None:
    made = make(examples)
    words = {word for texts in examples.texts for text in texts for word in text.split()}
    longest = max(len(text.split()) for texts in examples.texts for text in texts)
    for texts in made_texts(made):
        assert len(texts) == len(examples.texts[0])
        for text in texts:
            assert set(text.split()) <= words
            assert 1 <= len(text.split()) <= longest


def test_single_words_stay_single(make: Make) -> None:
    made = make(Examples([(text.split()[0],) for (text,) in SINGLE.texts], SINGLE.labels))
    assert all(len(text.split()) == 1 for (text,) in made_texts(made))


def test_the_second_of_a_pair_is_at_times_made_of_the_first(make: Make) -> None:
    made = make(PAIRS)
    alike = sum(second.islower() or not second.isupper() for _, second in made_texts(made))
    assert 10 < alike < 58


def test_texts_without_words_stay_so(make: Make) -> None:
    made = make(Examples([("",), ("one two three",)], [0, 1]))
    assert len(made_texts(made)) == 2
