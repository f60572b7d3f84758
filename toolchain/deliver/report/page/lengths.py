"""Pictures with one thread for each engine through groups of texts, from short to long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.deliver.report.charts import DEEP, Scale, Side, take_line
from toolchain.deliver.report.figures import quantity, show
from toolchain.deliver.report.lengths import span
from toolchain.deliver.report.page import legend
from toolchain.deliver.report.page.lines import Line, label, method, sound
from toolchain.deliver.report.page.planes import levels
from toolchain.deliver.report.page.svg import Picture, group, line, text, thread


def threads(
    lines: Sequence[Line], found: Mapping[str, Any], figure: str, words: str, *, narrow: bool
) -> Picture | None:
    """A figure of each engine over the length of the texts; None where no engine has it in every group.

    Args:
        lines: The report's.
        found: Its ``lengths``.
        figure: Its name in a cell: ``accuracy_percent``, which is the metric, or ``latency_ms``.
        words: What that is.
        narrow: Whether it is for a phone.
    """
    drawn = {
        index: [float(cell[figure]) for cell in cells]
        for index, cells in enumerate(found["engines"])
        if all(cell[figure] is not None for cell in cells)
    }
    if not drawn:
        return None
    exact = figure == "accuracy_percent"
    width, height = (360, 340) if narrow else (1000, 400)
    left, right, top, bottom = (36 if narrow else 44), width - 30, 22, height - 44
    values = [value for row in drawn.values() for value in row]
    kept = [value for index, row in drawn.items() if lines[index]["baseline"] for value in row] or values
    deepest = min(kept) - DEEP if exact else min(values)
    scale = Scale.around([max(value, deepest) for value in values], logarithmic=not exact)
    up = Side(scale, bottom, top)
    groups = found["groups"]
    places = [left + (right - left) * (at + 0.5) / len(groups) for at in range(len(groups))]
    parts = [text(4, 12, words, kind="tick"), *levels(up, left, right)]
    for x, each in zip(places, groups, strict=True):
        name = span(each).removesuffix(" tokens")
        parts += [line(x, top, x, bottom, "rule"), text(x, bottom + 16, name, anchor="middle", kind="tick")]
    parts.append(text((left + right) / 2, bottom + 34, "tokens of the text", anchor="middle", kind="tick"))
    taken: list[float] = []
    drawings = []
    for index, row in drawn.items():
        points = [(x, up.at(y)) for x, y in zip(places, row, strict=True)]
        shown = thread(points)
        end = points[-1][1] + 4
        if take_line(end, taken):
            shown += text(points[-1][0] + 8, end, label(lines[index]), kind="quiet")
        told = ", ".join(
            f"{span(each)}: {show(value, 2) if exact else quantity(value)}"
            for each, value in zip(groups, row, strict=True)
        )
        data = {"values": " ".join(map(str, row))}
        said = f"{lines[index]['name']}: {words}; {told}"
        drawings.append(group(index, method(lines[index]), said, shown, data, hollow=not sound(lines[index])))
    keys, below = legend.draw(lines, height, width)
    many = ", ".join(str(each["examples"]) for each in groups)
    cut = "; what is far below stands at the lower edge" if min(values) < scale.low else ""
    title = f"{words[:1].upper()}{words[1:]} by length of the text; {many} texts; numbers are ranks{cut}"
    name = f"lengths-{figure.replace('_', '-')}"
    return Picture(name, title, width, height + below, (*parts, *reversed(drawings), *keys))
