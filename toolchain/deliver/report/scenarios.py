"""Which engine to deploy where: on the processor of a device, on that of a server, on a GPU; with the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.certainty.statistics import Interval
from toolchain.deliver.report.figures import key, quantity, ratio, show
from toolchain.deliver.report.line import UNSTABLE
from toolchain.deliver.report.metric import ACCURACY
from toolchain.deliver.report.page.lines import Line, barred, number, on_gpu, settings_of
from toolchain.kinds.contract import Metric
from toolchain.measure.gates import measurably_faster


def scenarios(lines: Sequence[Line], asked: str = "", metric: Metric = ACCURACY) -> list[dict[str, Any]]:
    """The engine to deploy in each scenario that something here was timed for.

    In every scenario an engine must be one that may be shipped, and a baseline or measurably faster than its own. Then
    the fastest is taken; where the intervals of others of its model reach into its own, the smallest of these on a
    device; on a server or a GPU the most accurate where the data settle that, else the smallest.

    Args:
        lines: Those of ``report.json``.
        asked: What is asked of an engine's metric, in words.
        metric: The metric.

    Returns:
        ``scenario``, ``name`` and ``engine_key`` (None where nothing qualifies), and ``reasons``, a sentence each.
    """
    batches = settings_of(lines)
    largest = batches[-1] if batches else ""
    here = [line for line in lines if not on_gpu(line)]
    there = [line for line in lines if on_gpu(line)]
    found = []
    if "batch 1" in batches and here:
        found.append(_chosen("edge CPU, one text at a time", here, "batch 1", asked, metric, by_size=True))
    if largest not in ("", "batch 1") and here:
        found.append(_chosen(f"server CPU, throughput at {largest}", here, largest, asked, metric, by_size=False))
    if largest and there:
        found.append(_chosen(f"GPU, {largest}", there, largest, asked, metric, by_size=False))
    return found


def _chosen(
    scenario: str, among: Sequence[Line], setting: str, asked: str, metric: Metric, *, by_size: bool
) -> dict[str, Any]:
    """The engine for a scenario, and why it and no other."""
    timed = [line for line in among if _time(line, setting)]
    fast = sorted((line for line in timed if _may_be_fast(line, setting)), key=lambda line: _time(line, setting) or 0.0)
    fit = [line for line in fast if not barred(line)]
    if not fit:
        why = f"no engine that may be shipped is timed at {setting}"
        if any(not barred(line) for line in timed):
            why = f"no engine that may be shipped is measurably faster than its baseline at {setting}"
        return {"scenario": scenario, "name": None, "engine_key": None, "reasons": [why]}
    tied = [line for line in fit if line is fit[0] or _not_told_apart(fit[0], line, setting)]
    surer = [] if by_size else [line for line in tied if _more_accurate(line, fit[0])]
    chosen = (
        max(surer, key=lambda line: number(line, "accuracy_percent") or 0.0)
        if surer
        else min(tied, key=lambda line: number(line, "size_mb") or 0.0)
    )
    reasons = [
        f"{_pace(chosen, setting)}{_tail(chosen, setting)}{_gain(chosen, setting)}",
        f"{quantity(chosen['size_mb'])} MB to download{_memory(chosen)}",
        f"{metric.name} {show(chosen['accuracy_percent'], 2)} {metric.unit}".rstrip()
        + _change(chosen)
        + (f", asked for: {asked}" if asked else ""),
    ]
    if chosen is not fit[0]:
        better = "more accurate" if surer else "smaller"
        reasons.append(f"not told apart in speed from {fit[0]['name']} ({_pace(fit[0], setting)}), and {better}")
    ahead = next((line for line in fast if barred(line)), None)
    if ahead and (_time(ahead, setting) or 0.0) < (_time(chosen, setting) or 0.0):
        marks = ", ".join(reason.partition(":")[0] for reason in barred(ahead))
        reasons.append(f"{ahead['name']} is faster ({_pace(ahead, setting)}) and may not be shipped: {marks}")
    gain = _interval(chosen, setting)
    if gain is not None and gain.reach > UNSTABLE:
        reasons.append("its speed against its baseline is not settled: close other programs and measure again")
    if chosen["baseline"]:
        reasons.append("it is a baseline: nothing that qualifies is measurably faster")
    return {
        "scenario": scenario, "name": chosen["name"], "engine_key": chosen.get("engine_key"), "reasons": reasons,
    }  # fmt: skip


def _more_accurate(one: Line, other: Line) -> bool:
    """Whether the intervals of two engines' changes against their baseline are apart, the first's above."""
    low = 0.0 if one["baseline"] else number(one, "accuracy_change_points_low")
    high = 0.0 if other["baseline"] else number(other, "accuracy_change_points_high")
    if low is None or high is None:
        return False
    return (one["model"], one["seed"]) == (other["model"], other["seed"]) and low > high


def _time(line: Line, setting: str) -> float | None:
    """Time at a setting, in a unit that all engines share; None where it was not timed."""
    if setting == "batch 1":
        return number(line, "latency_engine_p50_ms")
    rate = number(line, f"per_s_sorted_engine_{key(setting)}")
    return 1 / rate if rate else None


def _interval(line: Line, setting: str) -> Interval | None:
    low, middle, high = (number(line, f"speedup_{key(setting)}{end}") for end in ("_low", "", "_high"))
    return (
        None
        if middle is None
        else Interval(middle, 0.0 if low is None else low, float("inf") if high is None else high)
    )


def _may_be_fast(line: Line, setting: str) -> bool:
    gain = _interval(line, setting)
    return bool(line["baseline"]) or (gain is not None and measurably_faster(gain))


def _not_told_apart(first: Line, other: Line, setting: str) -> bool:
    """Whether the intervals of two engines' speed against the baseline that they share meet."""
    ours, theirs = _interval(first, setting), _interval(other, setting)
    shared = (first["model"], first["seed"]) == (other["model"], other["seed"])
    return shared and ours is not None and theirs is not None and theirs.high >= ours.low


def _pace(line: Line, setting: str) -> str:
    if setting == "batch 1":
        return f"{quantity(line['latency_engine_p50_ms'])} ms"
    return f"{show(line[f'per_s_sorted_engine_{key(setting)}'])} sentences/s"


def _tail(line: Line, setting: str) -> str:
    tail = number(line, "latency_engine_p99_ms") if setting == "batch 1" else None
    return f" (99 % of texts within {quantity(tail)} ms)" if tail else ""


def _gain(line: Line, setting: str) -> str:
    gain = _interval(line, setting)
    if gain is None or line["baseline"]:
        return ""
    return f", {ratio(gain.estimate)}x as fast as its baseline [{ratio(gain.low)}, {ratio(gain.high)}]"


def _memory(line: Line) -> str:
    memory = number(line, "peak_memory_mb")
    return f", {quantity(memory)} MB of memory at its peak" if memory else ""


def _change(line: Line) -> str:
    change = number(line, "accuracy_change_points")
    return "" if change is None or line["baseline"] else f" ({show(change, 2, sign=True)} points)"


def told(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The choices as sentences, for Markdown."""
    return [
        f"- **{each['scenario']}**: " + (f"`{each['name']}`: " if each["name"] else "") + "; ".join(each["reasons"])
        for each in found
    ]
