"""Tables of results, the same rows in the terminal and in notebooks, and numbers with their units."""

from collections.abc import Iterable, Sequence
from html import escape


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table, for `_repr_html_`."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def size(count: float) -> str:
    """A number of bytes in powers of ten: `90.9 MB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def latency(value: float) -> str:
    """A time, below a second in milliseconds with three digits: `1.25 s`, `12.5 ms`.

    >>> latency(1.25), latency(0.0125), latency(0.12), latency(0.00099)
    ('1.25 s', '12.5 ms', '120 ms', '0.990 ms')
    """
    if value >= 0.9995:
        return f"{value:.2f} s"
    return f"{1000 * value:#.3g}".rstrip(".") + " ms"


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things: `1 step`, `2,000 steps`.

    >>> counted(1, "step"), counted(2000, "step"), counted(2, "matrix", "matrices")
    ('1 step', '2,000 steps', '2 matrices')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
