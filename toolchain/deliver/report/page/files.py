"""The page and its pictures as files, and the page, text and data of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.core.errors import ToolchainError
from toolchain.core.log import logger
from toolchain.deliver.report import compare_text
from toolchain.deliver.report.page import comparison, raster
from toolchain.deliver.report.page.document import html, pictures

PAGE = "report.html"

#: The pictures that a report may have; those of another report are taken away.
PICTURES = ("accuracy.svg", "size.svg", "parallel.svg")

#: What 'toolchain sensitivity -o' leaves in a folder; its picture is shown in the page.
DRAWINGS = {"sensitivity.svg": "What each layer costs when it alone is compressed"}


def write(report: Mapping[str, Any], folder: Path) -> None:
    """Writes ``report.html`` and the figures, as SVG and where that can be as PNG, into a folder that is there.

    Args:
        report: ``report.json``.
        folder: Where to.
    """
    drawings = [
        (told, (folder / name).read_text(encoding="utf-8"))
        for name, told in DRAWINGS.items()
        if (folder / name).is_file()
    ]
    (folder / PAGE).write_text(html(report, drawings), encoding="utf-8")
    found = pictures(report)
    for name in PICTURES:
        _draw(found.get(name), folder / name)


def _draw(picture: str | None, vector: Path) -> None:
    """Writes a picture as SVG, and as PNG beside it, or takes both away; what is there already is not drawn again."""
    bitmap = vector.with_suffix(".png")
    if picture is not None and bitmap.is_file() and vector.is_file() and vector.read_text(encoding="utf-8") == picture:
        return
    for old in (vector, bitmap):
        old.unlink(missing_ok=True)
    if picture is not None:
        if raster.available():
            try:
                bitmap.write_bytes(raster.png(picture))
            except ToolchainError as error:  # the report is whole without it
                logger.warning("    %s is left out: %s", bitmap.name, error.message)
        vector.write_text(picture, encoding="utf-8")  # last: it tells that both are of one picture


def write_comparison(found: Mapping[str, Any], folder: Path) -> None:
    """Writes ``comparison.html``, ``.md`` and ``.json`` into a folder that is there.

    Args:
        found: What ``compare`` gave.
        folder: Where to.
    """
    (folder / "comparison.html").write_text(comparison.html(found), encoding="utf-8")
    (folder / "comparison.md").write_text(compare_text.markdown(found), encoding="utf-8")
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
