"""Why a line of the report stands where it stands: its score taken apart, and what it may be recommended for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolchain.deliver.report.figures import ratio, show
from toolchain.deliver.report.line import Line
from toolchain.deliver.report.recommend import Recommendation


def standing(
    line: Line,
    ranked: int,
    weights: Mapping[str, float],
    setting: str,
    recommendations: Sequence[Recommendation],
) -> tuple[str, ...]:
    """Why a line is ranked as it is, or not at all, and why it is recommended, or not.

    Args:
        line: The line.
        ranked: How many lines are ranked.
        weights: Of ``accuracy``, ``compression`` and ``speedup`` in WS.
        setting: The setting whose IS is in WS.
        recommendations: The report's.

    Returns:
        One sentence about the rank, then why it may not be shipped, or what it is recommended for.
    """
    goals = "; ".join(chosen.goal for chosen in recommendations if chosen.name == line.name)
    sentences = [_rank(line, ranked, weights, setting)]
    sentences += [f"may not be shipped: {reason}" for reason in line.barred]
    if goals:
        sentences.append(f"recommended: {goals}")
    if line.size_only:
        sentences.append("never recommended for speed: size only")
    return tuple(sentences)


def _rank(line: Line, ranked: int, weights: Mapping[str, float], setting: str) -> str:
    speedup = line.speedup_of("engine").get(setting)
    if line.barred and line.score is not None:
        return f"not ranked: it may not be shipped; score {show(line.score, 2)}"
    if line.rank is None or speedup is None or line.compression is None:
        return f"not ranked: {_unranked(line, setting)}"
    tie = ", within noise of the one above" if line.tied else ""
    parts = {
        line.kind.METRIC.name: (weights["accuracy"], show(100 * line.accuracy.estimate, 2)),
        "times smaller": (weights["compression"], ratio(line.compression)),
        f"times as fast at {setting}": (weights["speedup"], ratio(speedup.estimate)),
    }
    sentence = " + ".join(f"{weight:g}·{value} ({name})" for name, (weight, value) in parts.items())
    return f"rank {line.rank} of {ranked}{tie}: score {show(line.score, 2)} = {sentence}"


def _unranked(line: Line, setting: str) -> str:
    if line.error:
        return "not timed" if line.error == "not timed" else f"not timed: {line.error.splitlines()[0]}"
    if line.compression is None:
        return "its model has no baseline here, so there are no ratios"
    return f"its baseline was not timed at {setting}, so there is no ratio of times"
