"""The starter tasks are whole, fair and the same every time."""

from pydoc_data.topics import topics

from aerogel.tasks import load_task


def test_movie_reviews_are_fair() -> None:
    splits = load_task("movie-reviews").splits
    train, validation = splits["train"], splits["validation"]
    assert len(train) + len(validation) == 10_568  # of 10,605, those whose rating is not nought
    assert 0.18 < len(validation) / (len(train) + len(validation)) < 0.22
    for examples in (train, validation, train.first(200), validation.first(200)):
        assert set(examples.labels) == {0.0, 1.0}
        assert 0.4 < sum(examples.labels) / len(examples) < 0.6
    assert not set(train.texts) & set(validation.texts)
    assert all(len(texts) == 1 and texts[0].strip() for texts in train.texts + validation.texts)
    assert load_task("movie-reviews").splits == splits


def test_movie_reviews_that_praise_have_label_1() -> None:
    train = load_task("movie-reviews").split("train")
    for label, words in ((1, ("excellent", "wonderful", "delightful")), (0, ("boring", "awful", "tedious"))):
        found = [
            given == label
            for (text,), given in zip(train.texts, train.labels, strict=True)
            if any(word in text.lower() for word in words)
        ]
        assert len(found) > 20
        assert sum(found) / len(found) > 0.75


def test_the_reference_holds_text_out() -> None:
    splits = load_task("python-reference").splits
    assert load_task("python-reference").splits == splits
    assert 0.1 < len(splits["validation"]) / sum(map(len, splits.values())) < 0.35
    assert min(map(len, splits.values())) > 50_000
    lines = {split: {line.strip() for line in text.splitlines() if len(line) > 50} for split, text in splits.items()}
    known = {line.strip() for text in topics.values() for line in text.splitlines()}
    assert lines["train"] | lines["validation"] <= known
    assert len(lines["train"] & lines["validation"]) < 0.02 * len(lines["validation"])
