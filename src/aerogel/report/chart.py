"""A chart of the page: its panels and its caption."""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from aerogel.charts import svg


@dataclass(frozen=True)
class Chart:
    """Drawings side by side under one title, which is unique in the page.

    `dashes` are the names of the line styles, by their index in `DASHES`. Colours and markers are those of the models.
    """

    title: str
    caption: str
    drawings: tuple[Markup, ...]
    dashes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, title: str, caption: str, panels: Mapping[str, Figure], dashes: Iterable[str] | None = None) -> "Chart":
        """From the figures of the panels by name. The text for screen readers ends with the caption."""
        names = {name: f"{title}, {name}" if name else title for name in panels}
        drawings = (
            svg(figure, f"{names[name]}. {caption}", f"f{zlib.crc32(names[name].encode()):08x}")
            for name, figure in panels.items()
        )
        return cls(title, caption, tuple(map(Markup, drawings)), None if dashes is None else tuple(dashes))


def listed(parts: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
