"""Evaluations and one timing to a ranked table: on the terminal, and as Markdown, CSV and JSON.

CR = S_original / S_compressed, IS = T_original / T_compressed and WS = w_A·A + w_CR·CR + w_IS·IS (A in percent), where
the original is the baseline engine of the same model and seed, S is bytes on disk and T is time in the same rounds.
"""

from __future__ import annotations

from toolchain.deliver.report.build import Report, build_report
from toolchain.deliver.report.compare import compare
from toolchain.deliver.report.line import Line, Row
from toolchain.deliver.report.recommend import Recommendation
from toolchain.deliver.report.screen import terminal
from toolchain.deliver.report.tables import csv_text, markdown, to_json, write

__all__ = [
    "Line",
    "Recommendation",
    "Report",
    "Row",
    "build_report",
    "compare",
    "csv_text",
    "markdown",
    "terminal",
    "to_json",
    "write",
]
