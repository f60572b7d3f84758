"""Rows of line charts as one SVG file: each row shares a logarithmic scale, a line stands for one name throughout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

#: Pixels.
WIDTH, HEIGHT, GAP = 210, 220, 26
HEAD, LEFT, TOP, BOTTOM, LEGEND = 30, 64, 52, 54, 110

#: From the first line to the last: dark blue to yellow, as matplotlib's viridis, which prints in grey as well.
COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (233, 205, 40))


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: Its name.
        axis: What its settings are.
        settings: From left to right, at equal distances.
        lines: Values by setting, by the name of the line; one that is missing is left out.
    """

    title: str
    axis: str
    settings: Sequence[float]
    lines: Mapping[str, Mapping[float, float]]


@dataclass(frozen=True)
class Row:
    """Charts of one quantity.

    Attributes:
        title: Stands above them.
        floor: A power of ten; what is below is drawn at the lower edge: so little is none.
        panels: At least one.
    """

    title: str
    floor: float
    panels: Sequence[Panel]


def draw(title: str, rows: Sequence[Row], names: Sequence[str]) -> str:
    """Draws rows of charts.

    Args:
        title: Stands above all.
        rows: At least one.
        names: All lines, in the order of their colours; one that is no number is dashed.
    """
    width = LEFT + max(len(row.panels) for row in rows) * (WIDTH + GAP) + LEGEND
    height = HEAD + len(rows) * (TOP + HEIGHT + BOTTOM)
    colours = _colours(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        label(LEFT, 22, title, size=13, weight="bold"),
    ]
    for number, row in enumerate(rows):
        top = HEAD + number * (TOP + HEIGHT + BOTTOM) + TOP
        parts.append(label(LEFT, top - 30, row.title, size=12))
        values = [value for panel in row.panels for line in panel.lines.values() for value in line.values()]
        most = max(10 * row.floor, 10 ** math.ceil(math.log10(max([*values, row.floor]))))
        scale = _Scale(top, row.floor, most)
        for index, panel in enumerate(row.panels):
            parts += _panel(panel, LEFT + index * (WIDTH + GAP), scale, colours, labelled=index == 0)
    parts += _legend(colours, width - LEGEND + 8, HEAD + TOP)
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Scale:
    """The scale of a row: its upper edge in pixels, and its two ends."""

    top: float
    floor: float
    most: float

    def height(self, value: float) -> float:
        """Where a value stands, from the top."""
        at = math.log10(max(value, self.floor) / self.floor) / math.log10(self.most / self.floor)
        return self.top + HEIGHT * (1 - at)


def _panel(panel: Panel, left: float, scale: _Scale, colours: Mapping[str, str], *, labelled: bool) -> list[str]:
    bottom = scale.top + HEIGHT
    parts = [label(left + WIDTH / 2, scale.top - 10, panel.title, anchor="middle", size=12, weight="bold")]
    for exponent in range(round(math.log10(scale.floor)), round(math.log10(scale.most)) + 1):
        y = scale.height(10**exponent)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}" stroke="#ddd"/>')
        if labelled:
            shown = f"{10**exponent:g}"
            parts.append(
                label(left - 6, y + 4, f"≤ {shown}" if 10**exponent <= scale.floor * 1.001 else shown, anchor="end")
            )
    places = {setting: left + WIDTH * (at + 0.5) / len(panel.settings) for at, setting in enumerate(panel.settings)}
    for setting, x in places.items():
        parts.append(f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}" stroke="#555"/>')
        parts.append(label(x, bottom + 18, f"{setting:g}", anchor="middle"))
    parts.append(f'<rect x="{left}" y="{scale.top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#555"/>')
    parts.append(label(left + WIDTH / 2, bottom + 38, panel.axis, anchor="middle"))
    for name, colour in colours.items():
        line = panel.lines.get(name, {})
        points = [(places[setting], scale.height(line[setting])) for setting in panel.settings if setting in line]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = "" if name.isdigit() else ' stroke-dasharray="5 3"'
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{colour}"/>' for x, y in points]
    return parts


def _legend(colours: Mapping[str, str], left: float, top: float) -> list[str]:
    parts = [label(left, top - 10, "layer", weight="bold")]
    for index, (name, colour) in enumerate(colours.items()):
        y = top + 8 + 15 * index
        dash = "" if name.isdigit() else ' stroke-dasharray="5 3"'
        parts.append(
            f'<line x1="{left}" y1="{y}" x2="{left + 20}" y2="{y}" stroke="{colour}" stroke-width="1.8"{dash}/>'
        )
        parts.append(label(left + 26, y + 4, name))
    return parts


def _colours(names: Sequence[str]) -> dict[str, str]:
    numbered = [name for name in names if name.isdigit()]
    found = {}
    for name in names:
        if not name.isdigit():
            found[name] = "#888888"
            continue
        at = numbered.index(name) / max(1, len(numbered) - 1) * (len(COLOURS) - 1)
        low = min(int(at), len(COLOURS) - 2)
        mixed = [a + (b - a) * (at - low) for a, b in zip(COLOURS[low], COLOURS[low + 1], strict=True)]
        found[name] = "#" + "".join(f"{round(value):02x}" for value in mixed)
    return found


def label(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, weight: str = "normal") -> str:
    """A text of a picture, its baseline at a point in pixels."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="#222">{escape(text)}</text>'
    )
