"""Times calls in interleaved rounds: whatever the device does meanwhile, it does to all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: Calls before the first that counts, in which libraries choose kernels and graphs are captured; fewer of slow ones.
WARM_UP, LEAST_WARM_UP, WARM_UP_SECONDS = 4, 2, 1.0

#: Calls of one turn, at most.
MOST_CALLS = 40


@dataclass(frozen=True)
class Effort:
    """How long is timed.

    Attributes:
        rounds: Rounds in which every call has one turn.
        turn_seconds: How long a turn should take.
    """

    rounds: int = 7
    turn_seconds: float = 0.02


def timed(
    calls: Mapping[str, Callable[[], Any]], effort: Effort, seed: int = 17
) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
    """Runs every call in turns.

    Args:
        calls: By name; each returns when its work is done, the device's too.
        effort: How long.
        seed: Of the order of turns, which is shuffled in every round.

    Returns:
        Seconds of each call, by name and round; and why a name is missing, by name.
    """
    failed: dict[str, str] = {}
    turns: dict[str, int] = {}
    for name, call in calls.items():
        try:
            taken: list[float] = []
            while len(taken) < LEAST_WARM_UP or (len(taken) < WARM_UP and sum(taken) < WARM_UP_SECONDS):
                taken.append(_seconds(call))
        except Exception as error:  # a vendor's, of any class: the others go on
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        turns[name] = max(1, min(MOST_CALLS, int(effort.turn_seconds / max(min(taken), 1e-7))))
    found: dict[str, list[list[float]]] = {name: [] for name in turns}
    shuffle = random.Random(seed)
    for _ in range(effort.rounds):
        order = list(found)
        shuffle.shuffle(order)
        for name in order:
            try:
                found[name].append([_seconds(calls[name]) for _ in range(turns[name])])
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
                del found[name]
    return found, failed


def summary(samples: Mapping[str, list[list[float]]], rows: int, baseline: str) -> dict[str, dict[str, Any]]:
    """Medians and spread of what :func:`timed` gave.

    Args:
        samples: Seconds of each call, by name and round.
        rows: Texts of a call.
        baseline: The name that times are divided into; skipped where it was not timed.

    Returns:
        By name: ``median_ms``, ``p10_ms``, ``p90_ms``, ``texts_per_second``, ``calls``; and ``ratio``, time of the
        baseline over time of this, the median over rounds, with the least and largest round.
    """
    found = {}
    for name, rounds in samples.items():
        every = sorted(value for one in rounds for value in one)
        median = statistics.median(every)
        record: dict[str, Any] = {
            "median_ms": round(1000 * median, 4),
            "p10_ms": round(1000 * quantile(every, 0.1), 4),
            "p90_ms": round(1000 * quantile(every, 0.9), 4),
            "texts_per_second": round(rows / median, 1),
            "calls": len(every),
        }
        if baseline in samples:
            ratios = ratios_of(samples[baseline], rounds)
            record["ratio"] = [round(value, 4) for value in (statistics.median(ratios), min(ratios), max(ratios))]
        found[name] = record
    return found


def ratios_of(of: list[list[float]], to: list[list[float]]) -> list[float]:
    """Time of one over time of another, round by round."""
    return [statistics.median(a) / statistics.median(b) for a, b in zip(of, to, strict=True)]


def quantile(ordered: list[float], share: float) -> float:
    """The value below which a share of them lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
