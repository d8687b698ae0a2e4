"""The report: from a study's store to one HTML file."""

from aerogel.report.build import build_report

__all__ = ["build_report"]
