"""Where the number of a mark stands in a picture, so that no other number and no mark covers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

#: Where a number may stand, from its mark, in pixels; the first that is free is taken.
BESIDE = ((9, -5), (9, 14), (-9, -5), (-9, 14), (0, 20), (0, -11), (14, 4), (-14, 4))

#: Pixels between the middles of two numbers, and of a number and a mark, that do not touch: to the side, and below.
APART, CLEAR = (16, 11), (9, 8)


@dataclass(frozen=True)
class Spot:
    """Where a number begins or ends: its baseline's ``x`` and ``y`` in pixels, and SVG's ``text-anchor``."""

    x: float
    y: float
    anchor: str


@dataclass
class Room:
    """The room that marks leave in a picture.

    Attributes:
        marks: The middles of all marks, in pixels.
        edge: Where the picture ends at its right, in pixels.
        letter: How wide a letter is, in pixels.
    """

    marks: Sequence[tuple[float, float]]
    edge: float
    letter: float
    _taken: list[tuple[float, float]] = field(default_factory=list)

    def take(self, mark: tuple[float, float], told: str) -> Spot | None:
        """A free spot for what is told of a mark, which is taken from then on; None where there is none."""
        for dx, dy in BESIDE:
            x, y = mark[0] + dx, mark[1] + dy
            inside = x + (self.letter * len(told) if dx > 0 else 0) < self.edge
            if inside and self._free(x, y, dx, mark):
                self._taken.append((x, y))
                return Spot(x, y, "start" if dx > 0 else "end" if dx < 0 else "middle")
        return None

    def _free(self, x: float, y: float, dx: float, own: tuple[float, float]) -> bool:
        middle = x + (4 if dx > 0 else -4 if dx < 0 else 0)
        return all(abs(x - a) > APART[0] or abs(y - b) > APART[1] for a, b in self._taken) and all(
            abs(middle - a) > CLEAR[0] or abs(y - 4 - b) > CLEAR[1] for a, b in self.marks if (a, b) != own
        )
