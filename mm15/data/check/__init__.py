"""Checking data before the first step: everything a recipe would read, at the price of its headers.

checking  which samples are looked at, and what comes of it       looking   in worker processes
samples, pictures, endings   what can be wrong with one           table, alike   what repeats and leaks
counting, expected           tokens, tiles, rows, epochs          report, report_page   JSON, text, HTML
"""

from .checking import check
from .findings import Finding, Kind
from .report import Report

__all__ = ["Finding", "Kind", "Report", "check"]
