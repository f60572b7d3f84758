"""What the rounds of a timing say: figures of an engine in a setting, and whether ratios of engines are settled."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

#: How texts come, and are batched.
Order = Literal["sorted", "data_order", "padded"]


@dataclass(frozen=True)
class Setting:
    """One way in which engines are timed.

    Attributes:
        batch_size: Examples that are handed over at a time, and the most of a batch.
        order: How they come and are batched.
        tokenize: Whether the clock starts at raw text.
    """

    batch_size: int
    order: Order
    tokenize: bool

    @property
    def path(self) -> tuple[str, ...]:
        """Where its result stands in ``settings`` of ``timing.json``."""
        clock = "end_to_end" if self.tokenize else "engine"
        if self.batch_size == 1:
            return ("latency", clock)
        return ("throughput", str(self.batch_size), self.order, clock)

    @property
    def compared(self) -> bool:
        """Whether ratios of engines are reported of it; of the others, a figure."""
        return self.batch_size == 1 or self.order == "sorted"


def settled(rounds: Sequence[Sequence[float]], bound: float) -> bool:
    """Return whether rounds settle the ratio of every two engines.

    Args:
        rounds: A value of each round, above 0, for every engine: ``[engines, rounds]``, at least two rounds.
        bound: How far the 95 % interval of a ratio may reach to either side of it, as a share of the ratio.
    """
    import numpy as np

    from toolchain.certainty.statistics import median_interval

    values = np.asarray(rounds, dtype=np.float64)
    for index in range(1, len(values)):
        middle, low, high = median_interval(values[:index] / values[index])
        if bool((np.maximum(high / middle - 1, 1 - low / middle) > bound).any()):
            return False
    return True


def round_values(setting: Setting, slices: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the value of each round: the median call in milliseconds at batch 1, else sentences per second."""
    if setting.batch_size == 1:
        return [statistics.median(taken["calls_ms"]) for taken in slices]
    return [taken["examples"] / taken["seconds"] for taken in slices]


def result(setting: Setting, slices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of an engine in a setting, with the value of each round."""
    rounds = round_values(setting, slices)
    if setting.batch_size == 1:
        calls = [call for taken in slices for call in taken["calls_ms"]]
        shares = {f"p{share}_ms": percentile(calls, share / 100) for share in (50, 90, 99)}
        figures = {"rounds_ms": rounds, "median_ms": statistics.median(rounds), **shares, "calls": len(calls)}
    else:
        figures = {"rounds_per_s": rounds, "median_per_s": statistics.median(rounds)}
    return {**figures, "spread": spread(rounds)}


def by_length(slices: Sequence[Mapping[str, Any]], tokens: Sequence[int]) -> dict[str, Any]:
    """Return calls at batch 1 by their text's length: the ``tokens`` that occur, ``calls``, and ``median_ms``."""
    found: dict[int, list[float]] = {}
    for taken in slices:
        for place, call in enumerate(taken["calls_ms"]):
            found.setdefault(tokens[place % taken["texts"]], []).append(call)
    lengths = sorted(found)
    return {
        "tokens": lengths,
        "calls": [len(found[length]) for length in lengths],
        "median_ms": [statistics.median(found[length]) for length in lengths],
    }


def joules(slices: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return joules per example by counter; a counter measures its whole package or GPU, idle power included."""
    examples = sum(taken["examples"] for taken in slices)
    counters = sorted({name for taken in slices for name in taken["joules"]})
    return {name: sum(taken["joules"].get(name, 0.0) for taken in slices) / examples for name in counters}


def spread(values: Sequence[float]) -> float:
    """Return (third quartile - first quartile) / median, which a single disturbed round moves little."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies, between neighbours by distance."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
