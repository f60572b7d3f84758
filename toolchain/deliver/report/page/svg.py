"""Pieces of the page's pictures; their colours are classes, which the page and a picture alone give by style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from toolchain.deliver.report.page.lines import METHODS
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
    parts: tuple[str, ...]

    def inline(self, kind: str) -> str:
        """The drawing as part of a page.

        Args:
            kind: A class: for which width of screen it is.
        """
        return (
            f'<svg class="picture {kind}" data-picture="{self.name}" viewBox="0 0 {self.width} {self.height}" '
            f'role="group" aria-label="{escape(self.title)}">\n' + "\n".join(self.parts) + "\n</svg>"
        )

    def alone(self, heading: str) -> str:
        """The drawing as a file of its own, in light colours.

        Args:
            heading: Stands above.
        """
        width, height = self.width + 2 * EDGE, self.height + 2 * EDGE + 40
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif">\n'
            f"<style>{standalone()}</style>\n"
            f'<rect class="paper" width="{width}" height="{height}"/>\n'
            + text(EDGE, EDGE + 12, heading, kind="strong")
            + "\n"
            + text(EDGE, EDGE + 30, self.title, kind="quiet")
            + f'\n<g transform="translate({EDGE} {EDGE + 40})">\n'
            + "\n".join(self.parts)
            + "\n</g>\n</svg>\n"
        )


def text(x: float, y: float, said: str, *, anchor: str = "start", kind: str = "") -> str:
    """A text with its baseline at a point."""
    shown = f' class="{kind}"' if kind else ""
    at = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{at}{shown}>{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def fit(said: str, width: float) -> str:
    """A text that takes no more than a width; its middle is left out where it must."""
    room = max(4, int(width / LETTER))
    if len(said) <= room:
        return said
    head = (room - 1) // 2
    return f"{said[:head]}…{said[len(said) - (room - 1 - head) :]}"


def mark(x: float, y: float, shape: int, size: float = 5.5) -> str:
    """A mark of one of five shapes about a point: circle, square, diamond, triangle, cross."""
    if shape % 5 == 0:
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
    if shape % 5 == 1:
        side = size * 0.9
        return (
            f'<rect class="dot" x="{x - side:.1f}" y="{y - side:.1f}" width="{2 * side:.1f}" height="{2 * side:.1f}"/>'
        )
    corners = {
        2: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        3: ((0, -1.2), (1.15, 0.85), (-1.15, 0.85)),
        4: ((-1.2, -0.5), (-0.5, -0.5), (-0.5, -1.2), (0.5, -1.2), (0.5, -0.5), (1.2, -0.5),
            (1.2, 0.5), (0.5, 0.5), (0.5, 1.2), (-0.5, 1.2), (-0.5, 0.5), (-1.2, 0.5)),
    }[shape % 5]  # fmt: skip
    drawn = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return f'<polygon class="dot" points="{drawn}"/>'


def thread(points: Sequence[tuple[float, float]]) -> str:
    """A line through points, with room about it to be pointed at, and a dot at each."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    return f'<path class="hit" d="{path}"/><path class="thread" d="{path}"/>{dots}'


def group(index: int, method: str, said: str, parts: str, data: Mapping[str, float | str], *, hollow: bool) -> str:
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
    kept = "".join(f' data-{name}="{escape(str(value))}"' for name, value in data.items())
    kind = f"mark {method}" + (" hollow" if hollow else "")
    return f'<g class="{kind}" data-line="{index}"{kept}><title>{escape(said)}</title>{parts}</g>'
