"""A report as one self-contained HTML page, and its figures as pictures of their own.

Everything here is made from the report's JSON alone, so that a page can be made again of any report that was kept.
"""

from __future__ import annotations

from toolchain.deliver.report.page.document import html, pictures
from toolchain.deliver.report.page.files import PAGE, write, write_comparison

__all__ = ["PAGE", "html", "pictures", "write", "write_comparison"]
