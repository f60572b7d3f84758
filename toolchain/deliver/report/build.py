"""Rows of the store to a ranked report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from toolchain import kinds
from toolchain.certainty.noninferiority import MARGIN
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import RecipeError, StoreError
from toolchain.deliver.report.certainty import WEIGHTS, Front, Winner, corrected, fronts, ranked
from toolchain.deliver.report.figures import figures
from toolchain.deliver.report.limits import floors, reasons
from toolchain.deliver.report.line import Line, Row, against, judged, read_line, score
from toolchain.deliver.report.pooling import Pooled, pool
from toolchain.deliver.report.recommend import Recommendation, recommend
from toolchain.kinds.contract import Kind
from toolchain.pipeline.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Report:
    """Engines compared and ranked; every rendering is made from this alone.

    Attributes:
        name: The recipe's name; may be empty.
        lines: One per engine: those that may be shipped by WS, then those that may not.
        recommendations: What to ship, by goal.
        kind: The kind of task, whose metric engines are judged by.
        split: The data that the metric is of: ``dev`` or ``test``.
        weights: Weights of ``accuracy``, which is the metric, ``compression`` and ``speedup`` in WS.
        speedup: The setting whose IS is in WS, e.g. ``batch 1``.
        margin: Points of accuracy that an engine may be worse than its baseline.
        limits: What an engine must keep within to be shipped.
        winner: The engine with the highest WS of those that may be shipped, and how sure that is; None without one.
        fronts: What nothing beats in accuracy, size and speed together, for every model and seed.
        pooled: Engines over their seeds, where there are several.
        machine: What it was measured on.
        settings: How it was measured: ``threads``, ``sample``, ``rounds`` and more.
        not_applicable: What was not tried, and why.
        not_run: What was built and cannot run on this machine, and why.
        failed: What was tried and failed, and the error.
        notes: What else a reader must know, such as overlaps between the data's splits.
        made: How to make it again: ``command``, ``versions`` of libraries, ``platform``; empty where nobody says.
    """

    name: str
    lines: tuple[Line, ...]
    recommendations: tuple[Recommendation, ...]
    kind: Kind
    split: str
    weights: Mapping[str, float]
    speedup: str
    margin: float
    limits: Limits
    winner: Winner | None
    fronts: tuple[Front, ...]
    pooled: tuple[Pooled, ...]
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    not_applicable: tuple[tuple[str, str], ...]
    not_run: tuple[tuple[str, str], ...]
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
    margin: float = MARGIN,
    limits: Limits | None = None,
    several_models: bool = False,
    name: str = "",
    machine: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    not_applicable: Sequence[tuple[str, str]] = (),
    not_run: Sequence[tuple[str, str]] = (),
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
        margin: Points of accuracy that an engine may be worse than its baseline, above 0.
        limits: What an engine must keep within to be shipped; none by default, so that the rule on accuracy holds.
        several_models: Engines are called by their model too, although there may be one here.
        name: The recipe's name.
        machine: What it was measured on.
        settings: How it was measured, as ``timing.json`` says at its top.
        not_applicable: ``(name, reason)`` of what was not tried.
        not_run: ``(name, reason)`` of what was built and cannot run here, or has not been run yet.
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
    lines = [read_line(row, _name(row, rows, several_models), split) for row in rows]
    kind = _kind(lines)
    timed = settings_of(lines)
    if timed and speedup not in timed:
        raise RecipeError(
            f"report.speedup: nothing was timed at {speedup!r}; timed: {', '.join(timed)}",
            "name one of these, or add the batch size to benchmark.batch_sizes",
        )
    baselines = {(line.row.model, line.row.seed): line for line in lines if line.row.baseline}
    compared = [
        _compared(line, baselines.get((line.row.model, line.row.seed)), weights, speedup, margin) for line in lines
    ]
    limits = limits or Limits()
    asked = floors([figures(line, timed) for line in compared])
    compared = [
        replace(line, barred=reasons(line, limits, asked.get(line.row.seed), timed)) for line in corrected(compared)
    ]
    ordered, winner = ranked(compared, weights, speedup)
    unbeaten = fronts(ordered, speedup)
    names = {name for front in unbeaten for name in front.engines}
    ordered = [replace(line, unbeaten=line.name in names) for line in ordered]
    return Report(
        name=name,
        lines=tuple(ordered),
        recommendations=recommend(ordered, timed, speedup),
        kind=kind,
        split=split,
        weights=dict(weights),
        speedup=speedup,
        margin=margin,
        limits=limits,
        winner=winner,
        fronts=unbeaten,
        pooled=pool(ordered, margin, weights, speedup),
        machine=dict(machine or {}),
        settings=dict(settings or {}),
        not_applicable=tuple(not_applicable),
        not_run=tuple(not_run),
        failed=tuple(failed),
        notes=tuple(notes),
        made=dict(made or {}),
    )


def _kind(lines: Sequence[Line]) -> Kind:
    """Return the kind of task of all engines; classification where there are none."""
    named = {str(line.kind): line.kind for line in lines}
    if len(named) > 1:
        raise StoreError(
            f"engines of several kinds of task cannot be ranked together: {', '.join(sorted(named))}",
            "report on the engines of one task",
        )
    return next(iter(named.values()), kinds.get(CLASSIFICATION))


def settings_of(lines: Sequence[Line]) -> tuple[str, ...]:
    """Every setting that some engine was timed at, by batch size."""
    settings = {setting for line in lines for setting in line.settings}
    return tuple(sorted(settings, key=lambda setting: int(setting.split()[1])))


def _name(row: Row, rows: Sequence[Row], several_models: bool) -> str:
    """``model/variant/engine``, without the model where there is one, with the seed where there are several."""
    several_models = several_models or len({other.model for other in rows}) > 1
    several_seeds = len({other.seed for other in rows}) > 1
    name = f"{row.variant}/{row.engine}" + (f" #{row.seed}" if several_seeds else "")
    return f"{row.model}/{name}" if several_models else name


def _compared(line: Line, base: Line | None, weights: Mapping[str, float], setting: str, margin: float) -> Line:
    """A line with what it is against its baseline, and with its score."""
    if base is None:
        return replace(line, gates=judged(line, (), "its model has no baseline here"))
    compared = replace(line, **against(line, base, margin))
    return replace(compared, score=score(compared, weights, setting))
