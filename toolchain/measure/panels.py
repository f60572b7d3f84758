"""Line charts side by side as one SVG file: a logarithmic scale that all share, a line for each name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

#: Pixels.
WIDTH, HEIGHT, GAP = 210, 250, 26
LEFT, TOP, BOTTOM, LEGEND = 64, 62, 64, 110

#: What is below is drawn at the lower edge: a change that small is none.
FLOOR = 1e-3

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


def draw(title: str, panels: Sequence[Panel], names: Sequence[str]) -> str:
    """Draws panels in a row.

    Args:
        title: Stands above.
        panels: At least one.
        names: All lines, in the order of their colours; one that is no number is dashed.
    """
    width = LEFT + len(panels) * (WIDTH + GAP) + LEGEND
    height = TOP + HEIGHT + BOTTOM
    values = [value for panel in panels for line in panel.lines.values() for value in line.values()]
    most = max(10 * FLOOR, 10 ** math.ceil(math.log10(max([*values, FLOOR]))))
    colours = _colours(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(LEFT, 22, title, size=13),
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, LEFT + index * (WIDTH + GAP), most, colours, labelled=index == 0)
    parts += _legend(colours, width - LEGEND + 8)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float, most: float, colours: Mapping[str, str], *, labelled: bool) -> list[str]:
    bottom = TOP + HEIGHT
    parts = [_text(left + WIDTH / 2, TOP - 10, panel.title, anchor="middle", size=12, weight="bold")]
    for exponent in range(round(math.log10(FLOOR)), round(math.log10(most)) + 1):
        y = _height(10**exponent, most)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}" stroke="#ddd"/>')
        if labelled:
            shown = f"{10**exponent:g}"
            parts.append(_text(left - 6, y + 4, f"≤ {shown}" if 10**exponent <= FLOOR else shown, anchor="end"))
    places = {setting: left + WIDTH * (at + 0.5) / len(panel.settings) for at, setting in enumerate(panel.settings)}
    for setting, x in places.items():
        parts.append(f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}" stroke="#555"/>')
        parts.append(_text(x, bottom + 18, f"{setting:g}", anchor="middle"))
    parts.append(f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#555"/>')
    parts.append(_text(left + WIDTH / 2, bottom + 38, panel.axis, anchor="middle"))
    for name, colour in colours.items():
        line = panel.lines.get(name, {})
        points = [(places[setting], _height(line[setting], most)) for setting in panel.settings if setting in line]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = "" if name.isdigit() else ' stroke-dasharray="5 3"'
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{colour}"/>' for x, y in points]
    return parts


def _legend(colours: Mapping[str, str], left: float) -> list[str]:
    parts = [_text(left, TOP - 10, "layer", weight="bold")]
    for index, (name, colour) in enumerate(colours.items()):
        y = TOP + 8 + 15 * index
        dash = "" if name.isdigit() else ' stroke-dasharray="5 3"'
        parts.append(
            f'<line x1="{left}" y1="{y}" x2="{left + 20}" y2="{y}" stroke="{colour}" stroke-width="1.8"{dash}/>'
        )
        parts.append(_text(left + 26, y + 4, name))
    return parts


def _height(value: float, most: float) -> float:
    """Where a value stands, from the top."""
    at = math.log10(max(value, FLOOR) / FLOOR) / math.log10(most / FLOOR)
    return TOP + HEIGHT * (1 - at)


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


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="#222">{escape(text)}</text>'
    )
