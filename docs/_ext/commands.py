"""The directive `commands`: the reference of the command line, from click."""

from inspect import cleandoc

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from aerogel.cli.main import aerogel


class Commands(SphinxDirective):
    """All commands, each with its usage, description, options and defaults."""

    def run(self) -> list[nodes.Node]:
        context = click.Context(aerogel, info_name="aerogel", max_content_width=88)
        return [
            node
            for name in aerogel.list_commands(context)
            if (command := aerogel.get_command(context, name))
            for node in self.parse_text_to_nodes(description(name, command, context), allow_section_headings=True)
        ]


def description(name: str, command: click.Command, parent: click.Context) -> str:
    """The section of one command, in Markdown."""
    context = click.Context(command, info_name=name, parent=parent)
    usage = f"aerogel {name} {' '.join(command.collect_usage_pieces(context))}"
    parts = [
        f"## aerogel {name}",
        f"```text\n{usage}\n```",
        *map(paragraph, cleandoc(command.help or "").split("\n\n")),
    ]
    for option in command.get_params(context):
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            terms, text = record
            parts.append(f"`{terms}`\n: {' '.join(text.split())}".replace("<", r"\<"))
    return "\n\n".join(parts)


def paragraph(text: str) -> str:
    """A paragraph of a help text; click prints one that starts with \\b as it is."""
    if text.startswith("\b"):
        return "```text\n" + text.removeprefix("\b").strip("\n") + "\n```"
    return text.replace("<", r"\<")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
