"""From records to tables, statistics, a figure and a page: reads what runs left behind and never imports torch."""

from __future__ import annotations

from thawline.reports.loading import find_sweep
from thawline.reports.making import ReportFiles, make_report, report_folder

__all__ = ["ReportFiles", "find_sweep", "make_report", "report_folder"]
