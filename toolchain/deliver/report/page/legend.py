"""What colours, shapes and hollow marks mean, drawn below a picture."""

from __future__ import annotations

from collections.abc import Sequence

from toolchain.deliver.report.page.lines import METHODS, Line, method, models, sound
from toolchain.deliver.report.page.markup import Markup, fill
from toolchain.deliver.report.page.svg import LETTER, mark, text

#: Height of a row, in pixels.
ROW = 20


def draw(lines: Sequence[Line], top: float, width: float, *, shapes: str = "") -> tuple[list[Markup], int]:
    """Draws the legend.

    Args:
        lines: The report's: only what occurs is explained.
        top: Its upper edge, in pixels.
        width: Room, in pixels; what does not fit goes on in the next row.
        shapes: What the shape of a mark tells, a model or a run, where the picture has marks; their filling tells the
            gates.

    Returns:
        Elements, and their height in pixels.
    """
    found = {method(line) for line in lines}
    items = [(name, 0, name) for name in METHODS if name in found]
    if shapes and len(models(lines)) > 1:
        items += [("shape", shape, f"{shapes} {name}") for shape, name in enumerate(models(lines))]
    if shapes and not all(sound(line) for line in lines):
        items.append(("base hollow", 0, "failed a gate: never recommended"))
    parts, x, y = [], 8.0, top + 12
    for kind, shape, name in items:
        taken = 18 + LETTER * 1.05 * len(name) + 18
        if x + taken > width and x > 8:
            x, y = 8.0, y + ROW
        parts.append(fill('<g class="key {}">{}</g>{}', kind, mark(x, y, shape, 5), text(x + 11, y + 4, name)))
        x += taken
    return parts, int(y - top) + 12
