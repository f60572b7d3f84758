"""The numbers of a line, in one place: every rendering reads them here, so that none says otherwise than another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from toolchain.certainty.statistics import Interval, median_interval
from toolchain.deliver.report.line import SCOPES, Line
from toolchain.deliver.report.pooling import Pooled
from toolchain.measure.gates import GATES, Verdict

#: What a verdict says.
STATES = {True: "passed", False: "failed", None: "not run"}

#: What a failure says that bars nothing.
LABEL = "label"

#: What each gate asks of an engine, in words for those who do not know its name.
ASKED = {
    "parity": "its labels are those of the graph that it was made from, after every pass",
    "fusion": "attention, layer norm and GELU became single operators",
    "placement": "every operator runs where it was asked to, and int8 products in integers",
    "invariance": "a text gets the same label alone, in a batch and padded",
    "never slower": "it is measurably faster than the baseline",
    "isa": "int8 gives the same labels on processors with fewer instructions (without VNNI)",
}

#: A figure of a line; None where there is none.
Figure = str | int | float | bool | None
Figures = dict[str, Figure]


def state(verdict: Verdict) -> str:
    """Return a verdict in one or two words."""
    return LABEL if verdict.label else STATES[verdict.passed]


def figures(line: Line, batches: Sequence[str]) -> Figures:
    """Every figure of a line under its name, with its unit in the name; the same names for every line.

    Args:
        line: The engine.
        batches: Every setting of the report, ``batch 1`` first.
    """
    row, evaluation, timing = line.row, line.evaluation, line.row.timing or {}
    values: Figures = {
        "rank": line.rank,
        "rank_low": line.rank_range[0] if line.rank_range else None,
        "rank_high": line.rank_range[1] if line.rank_range else None,
        "tied_with_previous": line.tied,
        "name": line.name,
        "model": row.model,
        "variant": row.variant,
        "engine": row.engine,
        "seed": row.seed,
        "baseline": row.baseline,
        "certified": None if row.objection is None else not row.objection,
        "score": line.score,
        "weights_share": line.weights_share,
        "unbeaten": line.unbeaten,
        "examples": len(line.scores),
        **_interval("accuracy_percent", line.accuracy, 100),
        **_interval("accuracy_change_points", line.difference, 100),
        "mcnemar_p": line.p_value,
        "mcnemar_p_holm": line.p_holm,
        "not_worse": line.not_worse.answer if line.not_worse else None,
        "not_worse_examples_needed": line.not_worse.needed if line.not_worse else None,
        **_ends("not_worse", line.not_worse.interval if line.not_worse else None, 100),
        "examples_lost": line.not_worse.lost if line.not_worse else None,
        "examples_won": line.not_worse.won if line.not_worse else None,
        "design_effect": line.not_worse.effect if line.not_worse else None,
        "label_flips": line.flips,
        "size_mb": line.size_mb,
        "engine_files_mb": _millions(evaluation["size_bytes"]),
        "zstd_mb": _millions(evaluation.get("zstd_bytes")),
        "parameters_m": _millions(evaluation.get("parameters")),
        "flops_per_example_m": _millions(evaluation.get("flops_per_example")),
        "training_steps": row.training.get("steps"),
        "training_minutes": row.training.get("minutes"),
        "training_machine": row.training.get("machine"),
        "compression": line.compression,
        "load_s": timing.get("load_s"),
        "peak_memory_mb": _millions(timing.get("peak_memory_bytes")),
    }
    for setting in batches:
        values |= _latency(line) if setting == "batch 1" else _throughput(line, setting)
        for scope in SCOPES:
            name = f"speedup_{key(setting)}" if scope == "engine" else f"speedup_{scope}_{key(setting)}"
            values |= _interval(name, line.speedup_of(scope).get(setting), 1)
        values[f"energy_j_{key(setting)}"] = _joules(timing, setting)
    verdicts = {verdict.gate: state(verdict) for verdict in line.gates}
    values |= {f"gate_{gate.replace(' ', '_')}": verdicts.get(gate, STATES[None]) for gate in GATES}
    return {**values, "size_only": line.size_only, "marks": ", ".join(line.marks), "error": line.error}


def pooled_figures(engine: Pooled, batches: Sequence[str]) -> dict[str, Any]:
    """Every figure of an engine over its seeds, under the names that the lines have for them.

    Args:
        engine: The engine over its seeds.
        batches: Every setting of the report, ``batch 1`` first.
    """
    figures: dict[str, Any] = {
        "rank": engine.rank,
        "tied_with_first": engine.tied,
        "name": engine.name,
        "seeds": list(engine.seeds),
        "baseline": engine.baseline,
        "accuracy_percent": 100 * engine.accuracy,
        "accuracy_spread_points": 100 * engine.spread,
        **_interval("accuracy_change_points", engine.difference, 100),
        "not_worse": engine.not_worse,
        "size_mb": engine.size_mb,
    }
    for setting in batches:
        figures |= _interval(f"speedup_{key(setting)}", engine.speedups.get(setting), 1)
    return {**figures, "score": engine.score, "barred": list(engine.barred)}


def _latency(line: Line) -> Figures:
    """Batch 1: percentiles of the time of one text."""
    values: Figures = {}
    for scope in SCOPES:
        timed = line.measured("batch 1", scope)
        values |= {f"latency_{scope}_{p}_ms": timed.get(f"{p}_ms") for p in ("p50", "p90", "p99")}
        values[f"latency_{scope}_spread"] = timed.get("spread")
        values |= _ends(f"latency_{scope}_p50_ms", _rounds(timed, "p50_ms", "rounds_ms"), 1)
    return values


def _throughput(line: Line, setting: str) -> Figures:
    """A batch size: sentences per second, sorted by length and in the data's order."""
    values: Figures = {}
    for order in ("sorted", "data_order"):
        for scope in SCOPES:
            timed = line.measured(setting, scope, order)
            values[f"per_s_{order}_{scope}_{key(setting)}"] = timed.get("median_per_s")
            values[f"spread_{order}_{scope}_{key(setting)}"] = timed.get("spread")
            name = f"per_s_{order}_{scope}_{key(setting)}"
            values |= _ends(name, _rounds(timed, "median_per_s", "rounds_per_s"), 1)
    return values


def _joules(timing: Mapping[str, Any], setting: str) -> float | None:
    """Energy of one example, of all packages and GPUs together; None where the machine has no counters."""
    energy = timing.get("energy_j")
    if not energy:
        return None
    by_size = energy.get("throughput", {})
    timed = energy["latency"] if setting == "batch 1" else by_size.get(setting.split()[1], {}).get("sorted", {})
    counters = timed.get("engine", {}).values()
    return sum(counters) if counters else None


def key(setting: str) -> str:
    """A setting as it stands in the names of figures."""
    return setting.replace(" ", "_")


def _interval(name: str, interval: Interval | None, scale: float) -> Figures:
    """An estimate and its two ends; an end without a bound is None."""
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    ends = {"": interval.estimate, "_low": interval.low, "_high": interval.high}
    return {f"{name}{end}": scale * value if math.isfinite(value) else None for end, value in ends.items()}


def _ends(name: str, interval: Interval | None, scale: float) -> Figures:
    """The two ends of an interval alone."""
    return {figure: value for figure, value in _interval(name, interval, scale).items() if figure != name}


def _rounds(timed: Mapping[str, Any], middle: str, rounds: str) -> Interval | None:
    """The interval over rounds of what was timed, its own middle within it; None where no rounds were kept."""
    if not timed.get(rounds) or timed.get(middle) is None:
        return None
    reach, value = _median(tuple(map(float, timed[rounds]))), float(timed[middle])
    return Interval(value, min(reach.low, value), max(reach.high, value))


@cache
def _median(rounds: tuple[float, ...]) -> Interval:
    """The median over rounds; every rendering asks for the same ones."""
    if len(rounds) == 1:
        return Interval(rounds[0], 0.0, math.inf)
    return Interval(*map(float, median_interval(np.asarray(rounds))))


def _millions(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def show(value: Figure, digits: int = 0, *, sign: bool = False) -> str:
    """A figure as text: rounded, with thousands separated, and a dash where there is none."""
    if value is None or value == "":
        return "-"
    if isinstance(value, (str, bool)):
        return str(value)
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    # Rounding leaves a sign on what has become nothing.
    return text.lstrip("+-") if not text.strip("+-0.") else text


def share_of_weights(value: Figure) -> str:
    """A share of all weights as text, in percent; what is not nothing is not told as nothing."""
    if not isinstance(value, (int, float)):
        return show(value)
    return "< 1" if 0 < value < 0.01 else show(100 * value)


def ratio(value: Figure) -> str:
    """A ratio as text, with three digits that count."""
    return show(value, 2 if isinstance(value, (int, float)) and abs(value) < 10 else 1)


def quantity(value: Figure) -> str:
    """A time or a size as text, with about three digits that count, at most three of them decimals."""
    if not isinstance(value, (int, float)):
        return show(value)
    return show(value, 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3)
