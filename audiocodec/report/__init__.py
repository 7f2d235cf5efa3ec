"""Report of evaluations and runs: a static page to look at and listen to."""

from audiocodec.report.page import write_report

__all__ = ['write_report']
