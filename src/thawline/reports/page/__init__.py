"""The page of a report: one file that answers questions, and still a whole report without a script and in print."""

from __future__ import annotations

from thawline.reports.page.rendering import html_page

__all__ = ["html_page"]
