"""The report: from a study's store to one HTML file."""

from aerogel.report.build import build

__all__ = ["build"]
