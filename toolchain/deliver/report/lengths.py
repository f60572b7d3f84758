"""Accuracy and latency by how long a text is: a speedup or a loss may be that of short or of long texts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.deliver.report import metric
from toolchain.deliver.report.line import Line

#: The most groups of examples.
GROUPS = 5

#: The fewest examples of a group: its accuracy has an interval of ±15 points then.
LEAST = 40

#: Times of texts whose tokens differ by so many are taken together, so that no stall of one call stands for a length.
ALIKE = 2


def by_length(lines: Sequence[Line], split: str) -> dict[str, Any] | None:
    """Groups of examples by their tokens, and what each engine does in them; the same examples for every engine.

    Args:
        lines: The report's.
        split: The data that accuracy is of.

    Returns:
        ``of``: the baseline whose tokens are counted, the first by name; ``groups``: fewest (``low``) and most
        (``high``) tokens of each, and its ``examples``; ``engines``: for each line, in order, by group
        ``accuracy_percent`` with ``_low`` and ``_high``, and ``latency_ms``: what the group's examples take at batch 1
        on average, None where nothing was timed. None where evaluations keep no lengths, or there are too few examples
        or lengths for two groups.
    """
    known = [len(line.evaluation.get("tokens", {}).get(split, ())) for line in lines]
    if not lines or set(known) != {len(lines[0].scores)} or {len(line.scores) for line in lines} != set(known):
        return None
    of = min((line for line in lines if line.row.baseline), key=lambda line: line.name, default=lines[0])
    tokens = np.asarray(of.evaluation["tokens"][split])
    edges = _edges(tokens)
    if len(edges) < 2:
        return None
    members = [np.searchsorted(edges, tokens) == at for at in range(len(edges))]
    return {
        "of": of.name,
        "groups": [
            {"low": int(tokens[inside].min()), "high": int(tokens[inside].max()), "examples": int(inside.sum())}
            for inside in members
        ],
        "engines": [_cells(line, members, split) for line in lines],
    }


def span(group: Mapping[str, int]) -> str:
    """How a group is called: ``5–9 tokens``."""
    ends = f"{group['low']}–{group['high']}" if group["low"] < group["high"] else str(group["low"])
    return f"{ends} tokens"


def _edges(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most tokens of each group; groups are about as large as each other where many texts are not equally long."""
    many = max(1, min(GROUPS, len(tokens) // LEAST))
    edges = list(np.unique(np.quantile(tokens, np.arange(1, many + 1) / many, method="inverted_cdf")))
    while len(edges) > 1:
        sizes = np.bincount(np.searchsorted(edges, tokens), minlength=len(edges))
        small = int(sizes.argmin())
        if sizes[small] >= LEAST:
            break
        del edges[small if small < len(edges) - 1 else small - 1]  # the last group ends where the longest text does
    return np.asarray(edges)


def _cells(line: Line, members: Sequence[NDArray[np.bool_]], split: str) -> list[dict[str, float | None]]:
    """What an engine does in each group."""
    timed = line.measured("batch 1").get("lengths")
    times = _times(timed, np.asarray(line.evaluation["tokens"][split])) if timed else None
    found: list[dict[str, float | None]] = []
    for inside in members:
        groups = None if line.groups is None else line.groups[inside]
        figure = metric.interval(line.kind, line.scores[inside], groups)
        found.append(
            {
                "accuracy_percent": 100 * figure.estimate,
                "accuracy_percent_low": 100 * figure.low,
                "accuracy_percent_high": 100 * figure.high,
                "latency_ms": None if times is None else float(times[inside].mean()),
            }
        )
    return found


def _times(timed: Mapping[str, Sequence[float]], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each example takes by its tokens, which are the engine's own: as texts of about that length did.

    Args:
        timed: ``tokens`` that occurred, ``calls`` and ``median_ms`` of each.
        tokens: Of every example.

    Returns:
        Milliseconds ``[examples]``; between two lengths by distance.
    """
    lengths, calls, medians = (np.asarray(timed[name]) for name in ("tokens", "calls", "median_ms"))
    smooth = []
    for length in lengths:
        near = np.abs(lengths - length) <= ALIKE
        smooth.append(float(np.median(np.repeat(medians[near], calls[near]))))
    return np.interp(tokens, lengths, smooth)
