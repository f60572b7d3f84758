"""A report as the Python API gives it: with its renderings."""

from __future__ import annotations

import dataclasses
from html import escape
from typing import Any

from toolchain.core.errors import require
from toolchain.deliver.report import build
from toolchain.deliver.report.figures import figures
from toolchain.deliver.report.page import html
from toolchain.deliver.report.tables import markdown, to_json


class Report(build.Report):
    """Engines compared and ranked; the attributes are those of :class:`toolchain.deliver.report.build.Report`."""

    @classmethod
    def of(cls, report: build.Report) -> Report:
        """Return a report with its renderings."""
        return cls(**{field.name: getattr(report, field.name) for field in dataclasses.fields(report)})

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return every figure of every engine, in the order of the ranking, unrounded; None where there is none."""
        return [dict(figures(line, self.batches)) for line in self.lines]

    def to_pandas(self) -> Any:
        """Return the same as a ``pandas.DataFrame``, a row for each engine.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return require("pandas", "torch").DataFrame(self.to_dicts())

    def to_markdown(self) -> str:
        """Return the whole report as Markdown."""
        return markdown(self)

    def _repr_html_(self) -> str:
        """Return the page in a frame, for notebooks."""
        page = escape(html(to_json(self)), quote=True)
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts" style="width:100%;height:40em;border:0"></iframe>'
