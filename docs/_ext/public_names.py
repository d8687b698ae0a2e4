"""The directive `public-names`: the reference of all public names of a package. A name without documentation fails."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


class PublicNames(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        module = import_module(package)
        documented = self.env.temp_data.setdefault("public names", {})  # a name is documented where it is first met
        values = {name: getattr(module, name) for name in module.__all__}
        names = [name for name, value in values.items() if name not in documented or documented[name] is not value]
        documented |= values
        lines = [line for name in names for line in self.entry(package, name)]
        return self.parse_text_to_nodes("```{eval-rst}\n" + "\n".join(lines) + "\n```")

    def entry(self, package: str, name: str) -> list[str]:
        """The autodoc directive of one name."""
        if name == "__version__":
            return []
        value = getattr(import_module(package), name)
        if inspect.isclass(value):
            documented, kind, options = bool(value.__doc__), "autoclass", [":members:"]
        elif inspect.isroutine(value):
            documented, kind, options = bool(value.__doc__), "autofunction", []
        else:
            source = origin(package, name)
            documented = ("", name) in ModuleAnalyzer.for_module(source).find_attr_docs()
            package, kind, options = source, "autodata", [":no-value:"]
        if not documented:
            logger.warning("%s.%s is public and has no documentation", package, name, location=self.get_location())
        return [f".. {kind}:: {package}.{name}", *(f"   {option}" for option in options), ""]


def origin(package: str, name: str) -> str:
    """The module that defines a name which a package imports."""
    module = import_module(package)
    for path in (Path(str(module.__file__)).with_suffix(".pyi"), Path(str(module.__file__))):
        for node in ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else ():
            if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
                return origin(f"{package}.{node.module}" if node.level else str(node.module), name)
    return package


def keep_colons(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """napoleon would read what precedes a colon in the first line of a property as its type."""
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")


def shorten(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A signature with validators fills several screens; the page on studies has the fields with types and defaults."""
    return ("(**fields)" if signature and "Validator(" in signature else signature), returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", shorten)
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
