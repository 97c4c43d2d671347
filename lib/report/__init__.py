"""The report: one self-contained HTML page about a lake, and the small table that the pipeline prints at its end."""

from lib.report.page import summary_rows, write_report

__all__ = ["summary_rows", "write_report"]
