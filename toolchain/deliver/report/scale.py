"""The scales of a report's pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Distances between the ticks of a linear scale.
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)

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
            ticks = next((found for found in inside if len(found) <= most), inside[-1])
        else:
            room = max(0.5, 0.12 * (max(values) - min(values)))
            low, high = min(values) - room, max(values) + room
            step = next((s for s in STEPS if (high - low) / s <= most), high - low)
            ticks = [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return cls(low, high, logarithmic, tuple(tick for tick in ticks if low <= tick <= high))

    def part(self, value: float) -> float:
        """Where a value stands, from 0 to 1."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)
