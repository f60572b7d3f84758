"""The terminal that tables and bars are drawn on: no text in them is taken as markup or as a control sequence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from toolchain.core import foreign


class Terminal(Console):
    """A console that shows foreign texts as they are written, whoever put them into a table.

    Args:
        settings: Those of ``rich.console.Console``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, soft_wrap=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a text as it is shown; its width is that of what is shown."""
        return super().render_str(foreign.shown(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the pieces of what is drawn; those of Rich itself, which move the cursor, stay."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(foreign.same_width(piece.text), piece.style)
