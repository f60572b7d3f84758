"""Rows of the store to a ranked report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from toolchain.core.errors import RecipeError
from toolchain.deliver.report.line import Line, Row, against, judged, read_line, score
from toolchain.deliver.report.recommend import Recommendation, recommend
from toolchain.measure.statistics import accuracy_difference

#: What WS weighs, in the order of its formula.
WEIGHTS = ("accuracy", "compression", "speedup")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Engines compared and ranked; every rendering is made from this alone.

    Attributes:
        name: The recipe's name; may be empty.
        lines: One per engine: by WS, then what has no WS, then what could not be timed.
        recommendations: What to ship, by goal.
        split: The data that accuracy is of: ``dev`` or ``test``.
        weights: Weights of ``accuracy``, ``compression`` and ``speedup`` in WS.
        speedup: The setting whose IS is in WS, e.g. ``batch 1``.
        machine: What it was measured on.
        settings: How it was measured: ``threads``, ``sample``, ``rounds`` and more.
        not_applicable: What was not tried, and why.
        failed: What was tried and failed, and the error.
        notes: What else a reader must know, such as overlaps between the data's splits.
        made: How to make it again: ``command``, ``versions`` of libraries, ``platform``; empty where nobody says.
    """

    name: str
    lines: tuple[Line, ...]
    recommendations: tuple[Recommendation, ...]
    split: str
    weights: Mapping[str, float]
    speedup: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    not_applicable: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    made: Mapping[str, Any]

    @property
    def batches(self) -> tuple[str, ...]:
        """Every setting that some engine was timed at, batch 1 first."""
        return settings_of(self.lines)


def build_report(
    rows: Sequence[Row],
    *,
    weights: Mapping[str, float],
    speedup: str,
    split: Literal["test", "dev"],
    name: str = "",
    machine: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    not_applicable: Sequence[tuple[str, str]] = (),
    failed: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    made: Mapping[str, Any] | None = None,
) -> Report:
    """Compares every engine with its own baseline (same model and seed) and ranks all of them by WS.

    Args:
        rows: One per engine.
        weights: ``accuracy``, ``compression`` and ``speedup``, each at least 0.
        speedup: The setting whose IS goes into WS: ``batch 1`` or a timed ``batch N``.
        split: The data that accuracy is read from.
        name: The recipe's name.
        machine: What it was measured on.
        settings: How it was measured, as ``timing.json`` says at its top.
        not_applicable: ``(name, reason)`` of what was not tried.
        failed: ``(name, error)`` of what failed.
        notes: What else a reader must know.
        made: How to make it again.

    Raises:
        RecipeError: ``speedup`` names a setting that nothing was timed at, or a weight is missing.
        StoreError: An evaluation cannot be read, or contradicts itself.
    """
    missing = [part for part in WEIGHTS if part not in weights]
    if missing:
        raise RecipeError(f"report.weights lacks {', '.join(missing)}", f"it needs {', '.join(WEIGHTS)}")
    lines = [read_line(row, _name(row, rows), split) for row in rows]
    timed = settings_of(lines)
    if timed and speedup not in timed:
        raise RecipeError(
            f"report.speedup: nothing was timed at {speedup!r}; timed: {', '.join(timed)}",
            "name one of these, or add the batch size to benchmark.batch_sizes",
        )
    baselines = {(line.row.model, line.row.seed): line for line in lines if line.row.baseline}
    compared = [_compared(line, baselines.get((line.row.model, line.row.seed)), weights, speedup) for line in lines]
    ranked = _rank(compared, weights, speedup)
    return Report(
        name=name,
        lines=ranked,
        recommendations=recommend(ranked, timed, speedup),
        split=split,
        weights=dict(weights),
        speedup=speedup,
        machine=dict(machine or {}),
        settings=dict(settings or {}),
        not_applicable=tuple(not_applicable),
        failed=tuple(failed),
        notes=tuple(notes),
        made=dict(made or {}),
    )


def settings_of(lines: Sequence[Line]) -> tuple[str, ...]:
    """Every setting that some engine was timed at, by batch size."""
    found = {setting for line in lines for setting in line.settings}
    return tuple(sorted(found, key=lambda setting: int(setting.split()[1])))


def _name(row: Row, rows: Sequence[Row]) -> str:
    """``model/variant/engine``, without the model where there is one, with the seed where there are several."""
    several_models = len({other.model for other in rows}) > 1
    several_seeds = len({other.seed for other in rows}) > 1
    name = f"{row.variant}/{row.engine}" + (f" #{row.seed}" if several_seeds else "")
    return f"{row.model}/{name}" if several_models else name


def _compared(line: Line, base: Line | None, weights: Mapping[str, float], setting: str) -> Line:
    """A line with what it is against its baseline, and with its score."""
    if base is None:
        return replace(line, gates=judged(line, (), "its model has no baseline here"))
    compared = replace(line, **against(line, base))
    return replace(compared, score=score(compared, weights, setting))


def _rank(lines: Sequence[Line], weights: Mapping[str, float], setting: str) -> tuple[Line, ...]:
    """The lines in the report's order, with ranks, and ties marked."""
    ordered = sorted(lines, key=lambda line: (line.score is None, bool(line.error), -(line.score or 0), line.name))
    ranked: list[Line] = []
    for place, line in enumerate(ordered, start=1):
        if line.score is None:
            ranked.append(line)
            continue
        tied = bool(ranked) and _within_noise(ranked[-1], line, weights, setting)
        ranked.append(replace(line, rank=place, tied=tied))
    return tuple(ranked)


def _within_noise(above: Line, below: Line, weights: Mapping[str, float], setting: str) -> bool:
    """Whether noise in accuracy and time could have ordered two neighbours.

    Their difference in WS is compared with its noise: the half widths of the paired accuracy difference and of both IS,
    weighted, added as squares. Bytes are exact.
    """
    if above.score is None or below.score is None or len(above.correct) != len(below.correct):
        return False
    accuracy = accuracy_difference(below.correct, above.correct).half_width
    times = [line.speedup_of("engine")[setting].half_width for line in (above, below)]
    weighted = [(weights["accuracy"], 100 * accuracy), *((weights["speedup"], width) for width in times)]
    # A weight of 0 silences even the boundless interval of a single round.
    return above.score - below.score <= math.hypot(*(weight * width for weight, width in weighted if weight))
