"""A finished run's model as a file for other programs, with all that they have to know of its images."""

from thawline.exports.writing import FORMATS, Exported, export_run, format_for

__all__ = ["FORMATS", "Exported", "export_run", "format_for"]
