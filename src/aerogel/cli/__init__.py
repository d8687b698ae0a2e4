"""The command line: commands without logic. Only this package prints."""

from aerogel.cli.main import main

__all__ = ["main"]
