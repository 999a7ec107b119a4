"""From derived tables to what people read: tables, their findings, figures, the page. Nothing is computed here."""

from __future__ import annotations

from attnpo.report.artefacts import write_artefact
from attnpo.report.results import write_report, write_results, write_trials
from attnpo.report.traced import TracePage, trace

__all__ = ["TracePage", "trace", "write_artefact", "write_report", "write_results", "write_trials"]
