"""The directive `study-fields`: the fields of a study with their defaults, from its specification."""

from collections.abc import Iterator

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from aerogel.study import StudySpec


class StudyFields(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(tables(StudySpec, "")))


def tables(part: type[BaseModel], name: str) -> Iterator[str]:
    """A table of the fields of one part, then those of the parts in it."""
    inner = {}
    yield f"\n{f'`[{name}]`' if name else 'At the top of the file'}\n\n| field | default |\n| --- | --- |"
    for field, facts in part.model_fields.items():
        if isinstance(facts.default, BaseModel):
            inner[field] = type(facts.default)
        else:
            yield f"| `{field}` | {'required' if facts.is_required() else written(facts.default)} |"
    for field, kind in inner.items():
        yield from tables(kind, field)


def written(value: object) -> str:
    """A default as TOML writes it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value)) if not value or not isinstance(value[0], str) else quoted(value)}]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def quoted(values: tuple[str, ...]) -> str:
    return ", ".join(f'"{value}"' for value in values)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("study-fields", StudyFields)
    return {"parallel_read_safe": True}
