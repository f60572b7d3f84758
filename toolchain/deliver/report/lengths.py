"""Accuracy and latency by how long a text is: a speedup or a loss may be that of short or of long texts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.deliver.report.line import Line
from toolchain.measure.statistics import wilson

#: The most groups of examples, of about equal size.
GROUPS = 5

#: The fewest examples of a group: its accuracy has an interval of ±15 points then.
LEAST = 40


def by_length(lines: Sequence[Line], split: str) -> dict[str, Any] | None:
    """Groups of examples by their tokens, and what each engine does in them; the same examples for every engine.

    Args:
        lines: The report's.
        split: The data that accuracy is of.

    Returns:
        ``of``: the engine whose tokens are counted, the first baseline; ``groups``: fewest (``low``) and most
        (``high``) tokens of each, and its ``examples``; ``engines``: for each line, in order, ``accuracy_percent`` with
        ``_low`` and ``_high``, and ``latency_ms`` at batch 1, or None where no such text was timed, by group. None
        where evaluations keep no lengths, or there are too few examples.
    """
    measured = [line for line in lines if split in line.evaluation.get("tokens", {})]
    if len(measured) < len(lines) or len({len(line.correct) for line in lines}) != 1:
        return None
    of = next((line for line in lines if line.row.baseline), lines[0])
    tokens = np.asarray(of.evaluation["tokens"][split])
    many = min(GROUPS, len(tokens) // LEAST)
    if many < 2:
        return None
    edges = np.unique(np.quantile(tokens, np.arange(1, many + 1) / many, method="inverted_cdf"))
    group = np.searchsorted(edges, tokens)
    groups = [
        {"low": int(found.min()), "high": int(found.max()), "examples": len(found)}
        for found in (tokens[group == at] for at in range(len(edges)))
    ]
    engines = [[_cell(line, group == at, edges, at) for at in range(len(edges))] for line in lines]
    return {"of": of.name, "groups": groups, "engines": engines}


def span(group: Mapping[str, int]) -> str:
    """How a group is called: ``5–9 tokens``."""
    ends = f"{group['low']}–{group['high']}" if group["low"] < group["high"] else str(group["low"])
    return f"{ends} tokens"


def _cell(line: Line, members: NDArray[np.bool_], edges: NDArray[np.int64], at: int) -> dict[str, float | None]:
    accuracy = wilson(int(line.correct[members].sum()), int(members.sum()))
    return {
        "accuracy_percent": 100 * accuracy.estimate,
        "accuracy_percent_low": 100 * accuracy.low,
        "accuracy_percent_high": 100 * accuracy.high,
        "latency_ms": _latency(line.measured("batch 1").get("lengths"), edges, at),
    }


def _latency(timed: Mapping[str, Sequence[float]] | None, edges: NDArray[np.int64], at: int) -> float | None:
    """Mean over the timed texts of a group of the median time of their length; an engine's own tokens count."""
    if not timed:
        return None
    tokens = np.asarray(timed["tokens"])
    inside = np.minimum(np.searchsorted(edges, tokens), len(edges) - 1) == at
    calls = np.asarray(timed["calls"]) * inside
    return float(np.average(timed["median_ms"], weights=calls)) if calls.sum() else None
