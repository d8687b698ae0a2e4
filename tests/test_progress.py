"""Progress reaches the listener of the moment, and nobody else."""

import contextlib

from aerogel.progress import listening, track, update


def test_every_item_is_told_and_passed_on() -> None:
    told: list[tuple[str, int, int]] = []
    with listening(lambda *news: told.append(news)):
        assert list(track("abc", "spelling")) == ["a", "b", "c"]
        assert list(track(iter("ab"), "streaming")) == ["a", "b"]
        update("done")
    assert told[:4] == [("spelling", place, 3) for place in range(4)]
    assert told[4:] == [("streaming", 0, 0), ("streaming", 1, 0), ("streaming", 2, 0), ("done", 0, 0)]


def test_listeners_nest_and_end() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with listening(lambda doing, *_: outer.append(doing)):
        with contextlib.suppress(KeyError), listening(lambda doing, *_: inner.append(doing)):
            update("inside")
            raise KeyError
        update("outside")
    update("to nobody")
    assert (outer, inner) == (["outside"], ["inside"])
