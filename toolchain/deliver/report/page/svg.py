"""Pieces of the page's pictures; their colours are classes, which the page and a picture alone give by style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolchain.deliver.report.page.lines import METHODS
from toolchain.deliver.report.page.markup import Markup, fill, join
from toolchain.deliver.report.page.style import standalone

#: Width of a letter of a label, in pixels, on average; sans-serif fonts differ by a tenth.
LETTER = 6.1

#: Room at the edges of a picture of its own, in pixels.
EDGE = 16


@dataclass(frozen=True)
class Picture:
    """A drawing that is not yet a file.

    Attributes:
        name: What it is called in the page and as a file.
        title: What it shows, in a sentence.
        width: Pixels.
        height: Pixels.
        parts: Its elements.
    """

    name: str
    title: str
    width: int
    height: int
    parts: tuple[Markup, ...]

    def inline(self, kind: str) -> Markup:
        """The drawing as part of a page.

        Args:
            kind: A class: for which width of screen it is.
        """
        return fill(
            '<svg class="picture {}" data-picture="{}" viewBox="0 0 {} {}" role="group" aria-label="{}">\n{}\n</svg>',
            kind, self.name, self.width, self.height, self.title, join(self.parts, "\n"),
        )  # fmt: skip

    def alone(self, heading: str) -> str:
        """The drawing as a file of its own, in light colours.

        Args:
            heading: Stands above.
        """
        width, height = self.width + 2 * EDGE, self.height + 2 * EDGE + 40
        return fill(
            '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif">\n'
            "<style>{style}</style>\n"
            '<rect class="paper" width="{width}" height="{height}"/>\n'
            '{heading}\n{title}\n<g transform="translate({edge} {top})">\n{parts}\n</g>\n</svg>\n',
            width=width, height=height, style=Markup(standalone()), edge=EDGE, top=EDGE + 40,
            heading=text(EDGE, EDGE + 12, heading, kind="strong"),
            title=text(EDGE, EDGE + 30, self.title, kind="quiet"), parts=join(self.parts, "\n"),
        )  # fmt: skip


def text(x: float, y: float, said: str, *, anchor: str = "start", kind: str = "") -> Markup:
    """A text with its baseline at a point."""
    shown = fill(' class="{}"', kind) if kind else ""
    at = fill(' text-anchor="{}"', anchor) if anchor != "start" else ""
    return fill('<text x="{:.1f}" y="{:.1f}"{}{}>{}</text>', x, y, at, shown, said)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line."""
    return fill('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>', kind, x1, y1, x2, y2)


def fit(said: str, width: float) -> str:
    """A text that takes no more than a width; its middle is left out where it must."""
    room = max(4, int(width / LETTER))
    if len(said) <= room:
        return said
    head = (room - 1) // 2
    return f"{said[:head]}…{said[len(said) - (room - 1 - head) :]}"


def mark(x: float, y: float, shape: int, size: float = 5.5) -> Markup:
    """A mark of one of five shapes about a point: circle, square, diamond, triangle, cross."""
    if shape % 5 == 0:
        return dot(x, y, size)
    if shape % 5 == 1:
        side = size * 0.9
        square = '<rect class="dot" x="{:.1f}" y="{:.1f}" width="{side:.1f}" height="{side:.1f}"/>'
        return fill(square, x - side, y - side, side=2 * side)
    corners = {
        2: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        3: ((0, -1.2), (1.15, 0.85), (-1.15, 0.85)),
        4: ((-1.2, -0.5), (-0.5, -0.5), (-0.5, -1.2), (0.5, -1.2), (0.5, -0.5), (1.2, -0.5),
            (1.2, 0.5), (0.5, 0.5), (0.5, 1.2), (-0.5, 1.2), (-0.5, 0.5), (-1.2, 0.5)),
    }[shape % 5]  # fmt: skip
    drawn = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return fill('<polygon class="dot" points="{}"/>', drawn)


def dot(x: float, y: float, radius: float, kind: str = "dot") -> Markup:
    """A circle about a point."""
    return fill('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>', kind, x, y, radius)


def thread(points: Sequence[tuple[float, float]]) -> Markup:
    """A line through points, with room about it to be pointed at, and a dot at each."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = join(dot(x, y, 3) for x, y in points)
    return fill('<path class="hit" d="{path}"/><path class="thread" d="{path}"/>{dots}', path=path, dots=dots)


def group(
    index: int, method: str, said: str, parts: Markup, data: Mapping[str, float | str], *, hollow: bool
) -> Markup:
    """What belongs to one engine: coloured by its method, with its figures as data and in words.

    Args:
        index: The engine's place in the report.
        method: One of ``METHODS``.
        said: Its name and figures.
        parts: Elements.
        data: What is drawn, unrounded, by name.
        hollow: Whether it failed a gate.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is no method: {', '.join(METHODS)}")
    kept = join(fill(' data-{}="{}"', name, value) for name, value in data.items())
    kind = f"mark {method}" + (" hollow" if hollow else "")
    return fill('<g class="{}" data-line="{}"{}><title>{}</title>{}</g>', kind, index, kept, said, parts)
