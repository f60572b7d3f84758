"""Checks on what was measured: each gives a verdict with its evidence, as data.

Parity is judged where a graph is made (``model/export.py``); these gates are judged where engines are compared. Gate 6,
no imaginary sparsity, needs no check there: size is bytes on disk and speed is time, so zeros that no file format
drops and no kernel skips earn neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toolchain.measure.statistics import Interval


@dataclass(frozen=True)
class Verdict:
    """What a gate found.

    Attributes:
        gate: Which gate.
        passed: Whether the engine came through.
        evidence: The numbers that decided it, as a sentence.
    """

    gate: str
    passed: bool
    evidence: str


def never_slower(speedups: Mapping[str, Interval]) -> Verdict:
    """Gate 5: a compressed engine must be measurably faster than its own baseline somewhere, or it is "size only".

    Measurably faster means that the whole 95 % interval of the time ratio lies above 1. An engine that is faster at one
    setting and not at another passes, and the evidence names both; whoever recommends for a setting asks
    :func:`measurably_faster` for that one.

    Args:
        speedups: Time of the baseline over time of the engine, per timed setting.
    """
    named = [
        f"{setting}: {ratio.estimate:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]" for setting, ratio in speedups.items()
    ]
    return Verdict(
        "never slower", any(map(measurably_faster, speedups.values())), "; ".join(named) or "nothing was timed"
    )


def measurably_faster(speedup: Interval) -> bool:
    """Whether the whole interval of a time ratio lies above 1."""
    return speedup.low > 1


def placement(counts: Mapping[str, int], expected: str) -> Verdict:
    """Gate 3: every node of the graph ran on the provider that was asked for.

    Args:
        counts: Nodes per provider or device, as the session reported them.
        expected: The provider that was asked for.
    """
    elsewhere = {name: count for name, count in counts.items() if name != expected and count}
    found = ", ".join(f"{count} on {name}" for name, count in sorted(counts.items())) or "no nodes reported"
    return Verdict(
        "placement", bool(counts.get(expected)) and not elsewhere, f"{expected} was asked for; nodes: {found}"
    )
