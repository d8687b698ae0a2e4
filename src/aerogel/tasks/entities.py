"""Named entities: the spans that a text's tags mark, in BIO (IOB1, IOB2) and BIOES (BILOU)."""

import re
from collections.abc import Iterable, Sequence

Entity = tuple[str, int, int]
"""A type, the first word, and the one after the last."""

OUTSIDE = "O"
TAG = re.compile(r"O|[BIESLU](-.+)?")


def marks_entities(tags: Iterable[str]) -> bool:
    """Whether tags are meant to mark entities: one starts with B- or I-, or all of them are bare letters (B, I, O).

    >>> marks_entities(["O", "B-person"]), marks_entities(["NOUN", "VERB"])
    (True, False)
    """
    tags = set(tags)
    return any(re.match("[BI][-_]", tag, re.IGNORECASE) for tag in tags) or {"B", OUTSIDE} <= tags <= set("BIESLUO")


def entities(tags: Sequence[str]) -> frozenset[Entity]:
    """The entities of a text, as the CoNLL shared tasks count them (Tjong Kim Sang and De Meulder 2003).

    An entity starts at B or S (U), where the type changes, and at I or E (L) after O or after an end.

    >>> sorted(entities(["B-place", "I-place", "O", "I-person", "B-person"]))
    [('person', 3, 4), ('person', 4, 5), ('place', 0, 2)]
    """
    found, start, before = set(), 0, OUTSIDE
    for place, tag in enumerate([*tags, OUTSIDE]):
        starts = tag[0] in "BSUO" or before[0] in "ESLUO" or tag[2:] != before[2:]
        if starts and before != OUTSIDE:
            found.add((before[2:], start, place))
        if starts:
            start = place
        before = tag
    return frozenset(found)
