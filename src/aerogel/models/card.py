"""The model card, README.md: a section on what was done to the model, beside what its source says."""

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
LONGEST = 200  # characters of a value that is taken from a source's card
LOAD = """\
The weights are packed: `import aerogel` before the model is loaded.

```python
import aerogel
from transformers import AutoModel  # or the class for the task

model = AutoModel.from_pretrained("path/to/this/model")
```"""


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from and what was done to it.

    `sparsity` is the share of zeros among the prunable weights, 0 to 1; `metrics` are those of the validation split.
    """

    base: str | None = None
    method: str | None = None
    pattern: str | None = None
    sparsity: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, stored: Any) -> Provenance:
        """From the header of a card, without what is not of the form that `to_dict` gives."""
        values = stored if isinstance(stored, dict) else {}
        texts = {name: values.get(name) for name in ("base", "method", "pattern")}
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
        """Of a model with this provenance to which `later` was done: its metrics are those alone that `later` has."""
        return replace(self, **later.to_dict() | {"metrics": later.metrics})


def write_card(path: Path, base: str, changes: Provenance | None, packed: bool) -> None:
    """Adds the section to the card at `path`, or replaces it, or makes a card; the rest of a card stays as it is.

    `base` is the name of the model that was changed, unless the card names one. Without `changes` the facts of the card
    stay. A header that can't be read is left as it is.
    """
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    header: dict[str, Any] | None = None
    with contextlib.suppress(Exception):  # of the YAML parser, and of what huggingface_hub makes of its result
        header = (metadata_load(path) or {}) if text else {}
    earlier = Provenance.read((header or {}).get("aerogel"))
    whole = earlier.followed_by(changes) if changes else earlier
    whole = replace(whole, base=earlier.base or base)
    section = _section(whole, packed)
    if BEGIN in text and END in text:
        text = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: section, text, flags=re.DOTALL)
    else:
        title = f"{text.rstrip()}\n" if text.strip() else f"# {whole.base}\n"
        text = f"{title}\n{section}\n"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    if header is not None:
        metadata_save(path, _with_metadata(header, whole))


def _with_metadata(header: dict[str, Any], provenance: Provenance) -> dict[str, Any]:
    tags = header.get("tags") or []
    tags = tags if isinstance(tags, list) else [tags]
    changed = {"library_name": "transformers"} | header
    own = ("aerogel", "sparse") if provenance.sparsity else ("aerogel",)
    changed |= {"tags": [*tags, *(tag for tag in own if tag not in tags)]}
    if provenance.base and "/" in provenance.base:  # a repository of the hub
        changed.setdefault("base_model", provenance.base)
    return changed | {"aerogel": provenance.to_dict()}


def _section(provenance: Provenance, packed: bool) -> str:
    sparsity = provenance.sparsity
    rows = {
        "base model": provenance.base,
        "method": provenance.method,
        "pattern": provenance.pattern,
        "sparsity of the prunable weights": None if sparsity is None else f"{sparsity:.2%}",
        **{f"{name} on the validation split": f"{value:.4f}" for name, value in provenance.metrics.items()},
        "made with": ", ".join(f"{name} {version(name)}" for name in ("aerogel", "transformers", "torch")),
    }
    table = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items() if value is not None]
    lines = [BEGIN, "## Aerogel", "", "| | |", "| --- | --- |", *table]
    return "\n".join([*lines, *(["", LOAD] if packed else []), END])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<!--", "").replace("-->", "").split())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
