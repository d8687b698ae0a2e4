"""Progress reaches the current listener only."""

import contextlib

from aerogel.progress import listening, track, update


def test_every_item_is_reported_and_yielded() -> None:
    calls: list[tuple[str, int, int]] = []
    with listening(lambda *call: calls.append(call)):
        assert list(track("abc", "spelling")) == ["a", "b", "c"]
        assert list(track(iter("ab"), "streaming")) == ["a", "b"]
        update("done")
    assert calls[:4] == [("spelling", done, 3) for done in range(4)]
    assert calls[4:] == [("streaming", 0, 0), ("streaming", 1, 0), ("streaming", 2, 0), ("done", 0, 0)]


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
