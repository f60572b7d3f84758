"""What the pictures of a report share: scales, the sides that they lie along, and where numbers find room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Points of accuracy below the best engine; what is below stands at the lower edge, with its accuracy.
DEEP = 8.0

#: Pixels between two numbers at the ends of lines, one below the other.
LINE = 11

#: Distances between the ticks of a linear scale.
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)

#: The fewest ticks from which a value between them can be read.
FEWEST = 3

#: Digits at which a logarithmic scale has ticks, from the densest to the barest.
DIGITS = ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


@dataclass(frozen=True)
class Scale:
    """A scale with its two ends and what is written along it."""

    low: float
    high: float
    logarithmic: bool
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Sequence[float], *, logarithmic: bool, most: int = 9) -> Scale:
        """A scale that holds values with some room at both ends.

        Args:
            values: At least one; above 0 where the scale is logarithmic.
            logarithmic: Whether equal distances are equal ratios.
            most: How many ticks at most; of a logarithmic scale, no fewer than its powers of ten.
        """
        if logarithmic:
            low, high = min(values) / 1.25, max(values) * 1.25
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            offered = [[step * 10.0**decade for decade in decades for step in digits] for digits in DIGITS]
            inside = [[tick for tick in ticks if low <= tick <= high] for ticks in offered]
            ticks = next((marks for marks in inside if len(marks) <= most), inside[-1])
            if len(ticks) < FEWEST:  # the whole scale spans hardly more than a factor of two
                unit = 10.0 ** math.floor(math.log10(high - low))
                ticks = _even_ticks(low, high, most, [unit * step for step in STEPS])
        else:
            room = max(0.5, 0.12 * (max(values) - min(values)))
            low, high = min(values) - room, max(values) + room
            ticks = _even_ticks(low, high, most, STEPS)
        return cls(low, high, logarithmic, tuple(tick for tick in ticks if low <= tick <= high))

    def part(self, value: float) -> float:
        """Where a value stands, from 0 to 1."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def _even_ticks(low: float, high: float, most: int, steps: Sequence[float]) -> list[float]:
    """Return at most ``most`` ticks at equal distances, one of ``steps``."""
    step = next((step for step in steps if (high - low) / step <= most), high - low)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


@dataclass(frozen=True)
class Side:
    """A scale along a side of a picture.

    Attributes:
        scale: The scale.
        start: Where its low end is, in pixels.
        end: Where its high end is, in pixels.
    """

    scale: Scale
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value stands, in pixels; what is below the scale stands at its low end."""
        return self.start + (self.end - self.start) * self.scale.part(max(value, self.scale.low))

    def ticks(self) -> list[tuple[float, str]]:
        """Where the ticks stand, in pixels, and what is written there."""
        return [(self.at(tick), f"{tick:g}") for tick in self.scale.ticks]


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


def take_line(y: float, taken: list[float]) -> bool:
    """Return whether a number fits at this height among those at the ends of lines, which is taken from then on."""
    free = all(abs(y - other) > LINE for other in taken)
    taken += [y] if free else []
    return free
