"""`aerogel models`."""

import click

from aerogel.cli import options
from aerogel.cli.notes import note_next
from aerogel.cli.output import note, print_json, print_table
from aerogel.models.zoo import ZOO


@click.command("models", epilog=options.examples("aerogel models", "aerogel models --json"))
@options.as_json
def list_models(as_json: bool) -> None:
    """List the models of the zoo."""
    if as_json:
        fields = ("name", "architecture", "parameters", "source", "offline")
        print_json([{field: getattr(entry, field) for field in fields} for entry in ZOO.values()])
        return
    rows = [(entry.name, entry.architecture, entry.parameters, entry.source) for entry in ZOO.values()]
    print_table("Models", ("name", "architecture", "parameters", "from"), rows, text_columns=4)
    note("Local folders and Hugging Face hub ids work too.")
    note_next("inspect", "tiny-bert")
