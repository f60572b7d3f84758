"""Choosing one option of each group, so that costs are least within a budget: a dynamic program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Steps into which the budget is cut.
BINS = 2000


@dataclass(frozen=True)
class Option:
    """One option of a group.

    Attributes:
        cost: What it costs, in what is to be least: an error, a loss.
        weight: What it takes of the budget; may be negative, where the budget counts from something larger.
        value: What is chosen with it.
    """

    cost: float
    weight: float
    value: int


def cheapest(groups: Sequence[Sequence[Option]], budget: float) -> list[int] | None:
    """Values of the options with the least total cost within a budget, one of each group.

    Weights are rounded up to a two-thousandth of the range that they span, so that the budget holds.

    Args:
        groups: Options, at least one in each group.
        budget: Most that the weights may add up to.

    Returns:
        A value for each group, or None where no choice keeps to the budget.
    """
    least = [min(option.weight for option in group) for group in groups]
    spare = budget - sum(least)
    if spare < 0:
        return None
    most = sum(max(option.weight for option in group) for group in groups) - sum(least)
    if spare >= most:  # everything fits, which rounding up would not see
        return [min(group, key=lambda option: option.cost).value for group in groups]
    unit = max(spare, 1e-12) / BINS
    best = np.zeros(BINS + 1)
    chosen = []
    for group, floor in zip(groups, least, strict=True):
        costs = np.full((len(group), BINS + 1), np.inf)
        for index, option in enumerate(group):
            bins = math.ceil((option.weight - floor) / unit - 1e-9)
            if bins <= BINS:
                costs[index, bins:] = best[: BINS + 1 - bins] + option.cost
        chosen.append(costs.argmin(axis=0))
        best = costs.min(axis=0)
    at, values = BINS, []
    for group, floor, choice in zip(reversed(groups), reversed(least), reversed(chosen), strict=True):
        option = group[int(choice[at])]
        values.append(option.value)
        at -= math.ceil((option.weight - floor) / unit - 1e-9)
    return values[::-1]
