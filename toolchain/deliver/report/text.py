"""Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], left: Collection[str]) -> str:
    """A Markdown table.

    Args:
        heads: Of the columns.
        rows: Cells, as many as heads.
        left: Heads of the columns of words, which stand to the left; numbers stand to the right.
    """
    ruler = ["---" if head in left else "---:" for head in heads]
    body = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (list(heads), ruler, *body))
