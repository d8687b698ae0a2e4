"""Commands wrap between words, not within an option: words with a hyphen get a class for the style sheet."""

from collections.abc import Iterator

from pygments.lexers.shell import BashLexer
from pygments.token import Text, _TokenType
from sphinx.application import Sphinx


class Shell(BashLexer):
    def get_tokens_unprocessed(self, text: str, *stack: tuple[str, ...]) -> Iterator[tuple[int, _TokenType, str]]:
        for index, kind, value in super().get_tokens_unprocessed(text, *stack):
            yield index, Text.Word if kind is Text and "-" in value else kind, value


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_lexer("sh", Shell)
    return {"parallel_read_safe": True}
