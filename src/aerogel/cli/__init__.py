"""The door: commands without logic, and the only package that prints."""

from aerogel.cli.main import main

__all__ = ["main"]
