"""Finds how much of a model may remain for a measured speedup."""

from __future__ import annotations

from collections.abc import Callable

from toolchain.core.errors import ModelError

#: A measured speedup is near enough to the one that was asked for.
_NEAR = 0.05


#: Models that are built and timed in a search, after the smallest one.
_TRIALS = 8


def find_share(measure: Callable[[float], float], least: float, wanted: float) -> float:
    """Finds the part of the parameters whose speedup is near the one that is wanted.

    Time is nearly a line over the parameters; where it is not, or jumps, the interval gets smaller by a tenth at least.

    Args:
        measure: Gives the speedup of a part, measured.
        least: The least part that can remain.
        wanted: The speedup to find.

    Returns:
        A part whose speedup is within 5 % of that; after 8 trials, the largest found that is faster.

    Raises:
        ModelError: With the least part it is slower.
    """
    low, high = round(least, 4), 1.0
    found = measure(low)
    if found < wanted * (1 - _NEAR):
        raise ModelError(
            f"speedup: × {wanted:g} is out of reach; the most is × {found:.2f}, with {low:.3g} of the parameters",
            "ask for less, lower multiple_of, or factorize more of each layer's matrices (layers)",
        )
    slow, fast = 1.0, 1 / found  # times with high and low
    share = low
    for _ in range(_TRIALS):
        if abs(found / wanted - 1) <= _NEAR:
            return share
        where = (1 / wanted - fast) / (slow - fast) if slow > fast else 0.5
        share = round(low + (high - low) * min(max(where, 0.1), 0.9), 4)
        found = measure(share)
        if found > wanted:
            low, fast = share, 1 / found
        else:
            high, slow = share, 1 / found
    return share if abs(found / wanted - 1) <= _NEAR else low
