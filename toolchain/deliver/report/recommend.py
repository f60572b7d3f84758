"""What to ship, computed from the lines, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.deliver.report.figures import quantity, ratio, show
from toolchain.deliver.report.line import Line
from toolchain.measure.gates import measurably_faster


@dataclass(frozen=True)
class Recommendation:
    """An engine to ship for one goal.

    Attributes:
        goal: What it is best at.
        name: The engine, as the report calls it.
        reason: The numbers that made the choice.
    """

    goal: str
    name: str
    reason: str


def recommend(lines: Sequence[Line], batches: Sequence[str], speedup: str) -> tuple[Recommendation, ...]:
    """The best engine by score, by size, and by speed at every timed setting, of those that may be shipped.

    For speed an engine must also be the baseline itself or measurably faster than it at that setting: one that is
    "size only" never is. Where an engine that may not be shipped is ahead, the reason says so, and why it may not.

    Args:
        lines: The report's lines, ranked.
        batches: Settings that were timed.
        speedup: The setting whose IS is in the score.
    """
    chosen = []
    scored = [line for line in lines if line.score is not None]
    best, passed_over = _choose(sorted(scored, key=lambda line: (-(line.score or 0.0), line.name)))
    if best:
        gains = f"{quantity(best.size_mb)} MB, {ratio(best.compression)}x smaller, {_speed(best, speedup)} at {speedup}"
        warning = "; size only: not for speed" if best.size_only else ""
        chosen.append(_told("best score", best, f"{gains}{warning}", passed_over))
    smallest, passed_over = _choose(sorted(lines, key=lambda line: (line.size_mb, line.name)))
    if smallest:
        gains = f"{quantity(smallest.size_mb)} MB, {ratio(smallest.compression)}x smaller"
        chosen.append(_told("smallest", smallest, gains, passed_over))
    for setting in batches:
        fast = [(_time(line, setting), line.name, line) for line in lines if _is_fast(line, setting)]
        fastest, passed_over = _choose([line for *_, line in sorted(fast, key=lambda item: item[:2])])
        if fastest:
            pace = f"{quantity(_time(fastest, setting))} ms" if setting == "batch 1" else f"{_pace(fastest, setting)}/s"
            shaky = ", unstable" if fastest.unstable(setting) else ""
            gains = f"{pace}, {_speed(fastest, setting)}{shaky}"
            chosen.append(_told(f"fastest, {setting}", fastest, gains, passed_over))
    return tuple(chosen)


def _choose(ordered: Sequence[Line]) -> tuple[Line | None, str]:
    """The first line that may be shipped, and the first one with its reason, where it had to be passed over."""
    chosen = next((line for line in ordered if not line.barred), None)
    if not ordered or chosen is ordered[0]:
        return chosen, ""
    marks = ", ".join(reason.partition(":")[0] for reason in ordered[0].barred)
    return chosen, f"; {ordered[0].name} is ahead and may not be shipped: {marks}"


def _told(goal: str, line: Line, gains: str, passed_over: str) -> Recommendation:
    """A choice with its reason; the baseline has gained nothing over itself."""
    if line.row.baseline:
        reason = "the baseline itself: nothing that may be shipped beats it"
        return Recommendation(goal, line.name, reason + passed_over)
    points = show(100 * line.difference.estimate, 2, sign=True) if line.difference else "-"
    return Recommendation(goal, line.name, f"{gains}, {points} points{passed_over}")


def _is_fast(line: Line, setting: str) -> bool:
    """Whether a line may be recommended for speed at a setting."""
    ratio_there = line.speedup_of("engine").get(setting)
    return ratio_there is not None and (line.row.baseline or measurably_faster(ratio_there))


def _time(line: Line, setting: str) -> float:
    """Time at a setting, by which engines of one set are ordered: milliseconds, or seconds a sentence."""
    timed = line.measured(setting)
    return float(timed["p50_ms"]) if setting == "batch 1" else 1 / float(timed["median_per_s"])


def _pace(line: Line, setting: str) -> str:
    return show(float(line.measured(setting)["median_per_s"]))


def _speed(line: Line, setting: str) -> str:
    speedup = line.speedup_of("engine").get(setting)
    return f"{ratio(speedup.estimate)}x as fast" if speedup else "not timed"
