"""The model card, README.md: adds a section on pruning to the card of the source."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, metadata_save

BEGIN, END = "<!-- aerogel: begin -->", "<!-- aerogel: end -->"
LONGEST = 200  # characters of a value from the source's card
LOAD = """\
Run `import aerogel` before the model is loaded.

```python
import aerogel
from transformers import AutoModel  # or the class for the task

model = AutoModel.from_pretrained("path/to/this/model")
```"""


@dataclass(frozen=True)
class Provenance:
    """The base model and what was done to it.

    `structure` is the target by which heads and neurons were removed, in words; `sparsity` is the share of zeros among
    the prunable weights, 0 to 1; `metrics` are on the validation split.
    """

    base: str | None = None
    structure: str | None = None
    method: str | None = None
    pattern: str | None = None
    sparsity: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, stored: Any) -> Provenance:
        """From the header of a card. Values that `to_dict` could not have written are ignored."""
        values = stored if isinstance(stored, dict) else {}
        texts = {name: values.get(name) for name in ("base", "structure", "method", "pattern")}
        metrics = values.get("metrics")
        return cls(
            **{name: text for name, text in texts.items() if isinstance(text, str) and len(text) <= LONGEST},
            sparsity=values.get("sparsity") if _is_number(values.get("sparsity")) else None,
            metrics={
                name: value
                for name, value in (metrics.items() if isinstance(metrics, dict) else ())
                if isinstance(name, str) and len(name) <= LONGEST and _is_number(value)
            },
        )

    def to_dict(self) -> dict[str, Any]:
        values = vars(self) | {"metrics": dict(self.metrics)}
        return {name: value for name, value in values.items() if value is not None and value != {}}

    def followed_by(self, later: Provenance) -> Provenance:
        """This provenance with later changes applied. Only the metrics of `later` are kept."""
        return replace(self, **later.to_dict() | {"metrics": later.metrics})


def write_card(path: Path, base: str, changes: Provenance | None, needs_aerogel: bool) -> None:
    """Add or replace aerogel's section in the card at `path`, or create the card. The rest of a card stays.

    `base` is the name of the changed model, unless the card names one. Without `changes` the card's facts stay. A
    header that can't be read is not changed. A model that `needs_aerogel` is packed, or its layers differ in size.
    """
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    header: dict[str, Any] | None = None
    with contextlib.suppress(Exception):  # errors of the YAML parser and of huggingface_hub
        header = (metadata_load(path) or {}) if text else {}
    earlier = Provenance.read((header or {}).get("aerogel"))
    provenance = earlier.followed_by(changes) if changes else earlier
    provenance = replace(provenance, base=earlier.base or base)
    section = _section(provenance, needs_aerogel)
    if BEGIN in text and END in text:
        text = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: section, text, flags=re.DOTALL)
    else:
        title = f"{text.rstrip()}\n" if text.strip() else f"# {provenance.base}\n"
        text = f"{title}\n{section}\n"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    if header is not None:
        metadata_save(path, _with_metadata(header, provenance))


def _with_metadata(header: dict[str, Any], provenance: Provenance) -> dict[str, Any]:
    tags = header.get("tags") or []
    tags = tags if isinstance(tags, list) else [tags]
    changed = {"library_name": "transformers"} | header
    own = ("aerogel", "sparse") if provenance.sparsity else ("aerogel",)
    changed |= {"tags": [*tags, *(tag for tag in own if tag not in tags)]}
    if provenance.base and "/" in provenance.base:  # a repository of the hub
        changed.setdefault("base_model", provenance.base)
    return changed | {"aerogel": provenance.to_dict()}


def _section(provenance: Provenance, needs_aerogel: bool) -> str:
    sparsity = provenance.sparsity
    rows = {
        "base model": provenance.base,
        "structures removed": provenance.structure,
        "method": provenance.method,
        "pattern": provenance.pattern,
        "sparsity of the prunable weights": None if sparsity is None else f"{sparsity:.2%}",
        **{f"{name} on the validation split": f"{value:.4f}" for name, value in provenance.metrics.items()},
        "made with": ", ".join(f"{name} {version(name)}" for name in ("aerogel", "transformers", "torch")),
    }
    table = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items() if value is not None]
    lines = [BEGIN, "## Aerogel", "", "| | |", "| --- | --- |", *table]
    return "\n".join([*lines, *(["", LOAD] if needs_aerogel else []), END])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<!--", "").replace("-->", "").split())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
