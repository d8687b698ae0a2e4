"""Fails the build if a page would load something from the network when it is viewed."""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

LOADED = (
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^"'\s>]*""",
    r"""<link\b(?![^>]*rel=["']?(?:canonical|license))[^>]*\bhref=["']?(?:https?:)?//[^"'\s>]*""",
    r"""(?:@import\s+|url\()\s*["']?(?:https?:)?//[^"')\s]*""",
)


def check(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix in (".html", ".css", ".svg"):
            text = path.read_text(encoding="utf-8")
            if found := next((match for pattern in LOADED if (match := re.search(pattern, text))), None):
                raise ExtensionError(f"{path}: loads from the network: {found.group()[:200]}")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
