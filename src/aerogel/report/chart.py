"""A chart of the page: its panels, and what it shows in one line."""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from aerogel.charts import svg


@dataclass(frozen=True)
class Chart:
    """Drawings side by side under one title, which is unique in the page.

    `dashes` names those of the lines, which have the colour and marker of their model.
    """

    title: str
    caption: str
    drawings: tuple[Markup, ...]
    dashes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, title: str, caption: str, panels: Mapping[str, Figure], dashes: Iterable[str] | None = None) -> "Chart":
        """From the figure of each panel by its name. Its text for screen readers ends in the caption."""
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
