"""Which engines may be shipped: the gates, the recipe's limits and one rule on accuracy, the same for every use.

Where the limits say nothing of accuracy, an engine must keep 99 % of the accuracy of the best baseline, as measured:
the share that MLPerf Inference asks for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from toolchain.certainty.noninferiority import MOST_NEEDED, examples_needed
from toolchain.deliver.report.figures import figures, key, quantity, show
from toolchain.deliver.report.line import Line, failed_mark
from toolchain.deliver.report.metric import ACCURACY
from toolchain.kinds.contract import Metric
from toolchain.measure.gates import binding
from toolchain.pipeline.limits import Limits

#: Share of the best baseline's accuracy that an engine must keep where no limit says otherwise.
KEPT_ACCURACY = 0.99

State = Literal["holds", "cannot say", "missed"]

#: For each limit: what it is called, its unit, and whether the value must reach it.
NAMES = {
    "size_mb": ("size", " MB", False),
    "latency_ms": ("latency", " ms", False),
    "per_s": ("sentences a second", "/s", True),
    "drop": ("change", " points", True),
    "accuracy": ("", "", True),  # what the metric is called
}

#: What stands in the table beside an engine that misses a limit, and beside one of which the data cannot say.
MISSED = {
    "size_mb": ("too large", "too large"),
    "latency_ms": ("too slow", "speed unsettled"),
    "per_s": ("too slow", "speed unsettled"),
    "drop": ("accuracy too low", "accuracy unsettled"),
    "accuracy": ("accuracy too low", "accuracy unsettled"),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One engine by one limit.

    Attributes:
        limit: The limit's name.
        asked: What it asks, in its unit; of ``drop`` the change of accuracy, below or at 0.
        value: What was measured; None where it was not.
        low: Lower end of its 95 % interval; the value itself where it is exact.
        high: Upper end.
        state: Whether it holds.
        reading: What the value is of, where the name does not say.
        metric: The metric that ``accuracy`` stands for.
        needed: About how many examples would settle it, ``MOST_NEEDED`` for any more than that; None where it is
            settled, not a matter of examples, or not known.
    """

    limit: str
    asked: float
    value: float | None
    low: float | None
    high: float | None
    state: State
    reading: str = ""
    metric: Metric = ACCURACY
    needed: int | None = None

    @property
    def mark(self) -> str:
        """What the table says of an engine that does not hold it."""
        return MISSED[self.limit][self.state == "cannot say"]

    @property
    def miss(self) -> float:
        """By what share of what is asked the limit is missed, as measured; below 0 where it holds."""
        if self.value is None:
            return math.inf
        more = NAMES[self.limit][2]
        if self.limit in ("drop", "accuracy"):  # points, so that half a point is as much at 90 % as at 0
            return (self.asked - self.value) / 10
        return self.asked / self.value - 1 if more and self.value else self.value / self.asked - 1

    @property
    def by(self) -> str:
        """How far the value is from what is asked, with its unit; empty where nothing was measured."""
        if self.value is None:
            return ""
        apart = abs(self.value - self.asked)
        text = show(apart, 2) if self.limit in ("drop", "accuracy") else number(self.limit, apart)
        return f" by {text}{' points' if self.limit == 'accuracy' else NAMES[self.limit][1]}"

    def __str__(self) -> str:
        name, unit, more = NAMES[self.limit]
        if self.limit == "accuracy":
            name, unit = self.metric.name, f" {self.metric.unit}".rstrip()
        side = "at least" if more else "at most"
        asked = f"{side} {number(self.limit, self.asked)}{unit} is asked"
        if self.value is None:
            return f"{name} not measured, {asked}"
        reach = ""
        if self.low is not None and self.high is not None and self.low < self.high:
            reach = f" [{number(self.limit, self.low)}, {number(self.limit, self.high)}]"
        reading = f" {self.reading}" if self.reading else ""
        return f"{name} {number(self.limit, self.value)}{unit}{reach}{reading}, {asked}"


def number(limit: str, value: float) -> str:
    """Return a value of a limit as text, without its unit."""
    if limit == "per_s":
        return show(value)
    return show(value, 2, sign=limit == "drop") if limit in ("drop", "accuracy") else quantity(value)


def floors(lines: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return by seed the accuracy, in percent, that an engine must reach where no limit says otherwise.

    Args:
        lines: Figures of every engine.
    """
    best: dict[int, float] = {}
    for line in lines:
        if line["baseline"]:
            best[line["seed"]] = max(best.get(line["seed"], -math.inf), float(line["accuracy_percent"]))
    # A correlation may be below 0: the floor is below it too, or the baseline itself would be too low.
    return {seed: KEPT_ACCURACY * value if value > 0 else value / KEPT_ACCURACY for seed, value in best.items()}


def rule(limits: Limits, metric: Metric = ACCURACY) -> str:
    """Return in words what is asked of an engine's accuracy, or of the metric that it stands for."""
    least = f"at least {show(limits.accuracy, 2)} {metric.unit}".rstrip()
    asked = [least] if limits.accuracy is not None else []
    asked += (
        [f"at most {limits.drop:g} point{'' if limits.drop == 1 else 's'} below its baseline"]
        if limits.drop is not None
        else []
    )
    if not asked:
        return f"at least {100 * KEPT_ACCURACY:.0f} % of the best baseline's {metric.name}, as measured"
    return " and ".join(asked) + (", at the worse end of its 95 % interval" if limits.confident else ", as measured")


def wanted(limits: Limits, metric: Metric = ACCURACY) -> str:
    """Return in words what is asked of an engine besides the gates."""
    asked = [f"at most {limits.size_mb:g} MB"] if limits.size_mb is not None else []
    asked += [f"at most {limits.latency_ms:g} ms a text"] if limits.latency_ms is not None else []
    asked += [f"at least {limits.per_s:g} texts/s"] if limits.per_s is not None else []
    asked += [f"one of {', '.join(limits.engines)}"] if limits.engines else []
    return "; ".join([*asked, rule(limits, metric)])


def findings(
    line: Mapping[str, Any], limits: Limits, floor: float | None, batches: Sequence[str], metric: Metric = ACCURACY
) -> list[Finding]:
    """Return an engine by every limit, and by the rule on accuracy where no limit is about it.

    Args:
        line: Its figures, or its line of ``report.json``.
        limits: The limits.
        floor: The accuracy that the rule asks for, in percent; None where there is no baseline.
        batches: Every setting of the report, ``batch 1`` first.
        metric: The metric that ``accuracy`` stands for.
    """
    result = []
    if limits.size_mb is not None:
        result.append(_finding("size_mb", limits.size_mb, line, "size_mb", limits))
    if limits.latency_ms is not None:
        result.append(_finding("latency_ms", limits.latency_ms, line, "latency_engine_p50_ms", limits, "at batch 1"))
    if limits.per_s is not None:
        at = limits.at or (batches[-1] if batches else "batch 1")
        name = f"per_s_sorted_engine_{key(at)}"
        result.append(_finding("per_s", limits.per_s, line, name, limits, f"at {at}"))
    if limits.drop is not None:
        result.append(_drop(line, limits))
    if limits.accuracy is not None:
        result.append(_finding("accuracy", limits.accuracy, line, "accuracy_percent", limits))
    if limits.drop is None and limits.accuracy is None and floor is not None:
        value = float(line["accuracy_percent"])
        state: State = "holds" if round(value, 9) >= round(floor, 9) else "missed"
        result.append(Finding(limit="accuracy", asked=floor, value=value, low=value, high=value, state=state))
    return [replace(finding, metric=metric) for finding in result]


def reasons(line: Line, limits: Limits, floor: float | None, batches: Sequence[str]) -> tuple[str, ...]:
    """Return why an engine may not be shipped, each as a mark, a colon and the numbers; () where it may.

    Args:
        line: The engine.
        limits: The recipe's.
        floor: The accuracy that the rule asks for, in percent; None where there is no baseline.
        batches: Every setting of the report.
    """
    gates = [f"{failed_mark(verdict.gate, line.kind.METRIC)}: {verdict.evidence}" for verdict in binding(line.gates)]
    row = line.row
    apart = [] if limits.allows(row.model, row.variant, row.engine) else ["not asked for: limits.engines names others"]
    open_or_missed = [
        each
        for each in findings(figures(line, batches), limits, floor, batches, line.kind.METRIC)
        if each.state != "holds"
    ]
    return (*gates, *apart, *(f"{each.mark}: {each}" for each in open_or_missed))


def _drop(line: Mapping[str, Any], limits: Limits) -> Finding:
    """Return the change of accuracy against the baseline by the limit on it."""
    asked = -float(limits.drop or 0.0)
    if line["baseline"]:
        return Finding(limit="drop", asked=asked, value=0.0, low=0.0, high=0.0, state="holds")
    ends = {
        f"accuracy_change_points_{end}": line[f"not_worse_{end}"]
        for end in ("low", "high")
        if line.get("examples_lost") is not None
    }
    finding = _finding("drop", asked, {**line, **ends}, "accuracy_change_points", limits)
    if finding.state == "cannot say" and ends and asked:
        lost, won, examples = (int(line[name]) for name in ("examples_lost", "examples_won", "examples"))
        needed = examples_needed(lost, won, examples, -asked / 100, float(line["design_effect"]))
        return replace(finding, needed=needed or MOST_NEEDED)
    return finding


def _finding(
    limit: str, asked: float, line: Mapping[str, Any], name: str, limits: Limits, reading: str = ""
) -> Finding:
    """Return a figure by a limit: held, missed, or left open by its interval."""
    value = line.get(name)
    if value is None:
        return Finding(limit=limit, asked=asked, value=None, low=None, high=None, state="missed", reading=reading)
    more, value = NAMES[limit][2], float(value)
    low, high = (line.get(f"{name}_{end}", value) for end in ("low", "high"))
    low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    # Nine decimals: a share of examples times 100 is not exact in binary.
    worse, better = (round(low, 9), round(high, 9)) if more else (-round(high, 9), -round(low, 9))
    middle, bar = (round(value, 9), asked) if more else (-round(value, 9), -asked)
    if not limits.confident:
        worse = better = middle
    state: State = "holds" if worse >= bar else "missed" if better < bar else "cannot say"
    ends = (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)
    return Finding(limit=limit, asked=asked, value=value, low=ends[0], high=ends[1], state=state, reading=reading)
