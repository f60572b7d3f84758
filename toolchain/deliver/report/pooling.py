"""A recipe of several seeds: each engine over all of its seeds, with intervals for other seeds as well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from toolchain.certainty.noninferiority import Answer, answer_of, seeds_interval
from toolchain.certainty.statistics import Interval, pooled, widened
from toolchain.deliver.report import metric
from toolchain.deliver.report.line import Line


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """One engine of a variant over several seeds.

    Attributes:
        name: ``model/variant/engine``, as the lines have it, without the seed.
        seeds: Its seeds.
        baseline: Whether it is the baseline.
        accuracy: Mean of the metric, such as the share of right labels, 0 to 1.
        spread: Standard deviation of accuracy between seeds.
        difference: Accuracy against the baseline's of the same seeds, for other seeds and other examples; None for the
            baseline, and without one.
        not_worse: The verdict for the report's margin.
        size_mb: Mean size, in 10^6 bytes.
        speedups: IS per setting, of the engine alone: the geometric mean over seeds and rounds, for others of both.
        score: Mean WS; None where a seed has none.
        barred: Why it may not be shipped, with the seeds in which it may not; empty where every seed's may.
        rank: Its place by mean WS among those that may be shipped, from 1; None without one.
        tied: Whether the data leave open, for other seeds and examples, which of it and the first is ahead.
    """

    name: str
    seeds: tuple[int, ...]
    baseline: bool
    accuracy: float
    spread: float
    difference: Interval | None
    not_worse: Answer | None
    size_mb: float
    speedups: Mapping[str, Interval]
    score: float | None
    barred: tuple[str, ...] = ()
    rank: int | None = None
    tied: bool = False


def pool(lines: Sequence[Line], margin: float, weights: Mapping[str, float], setting: str) -> tuple[Pooled, ...]:
    """Every engine that has several seeds, the highest mean WS first; what may not be shipped stands last.

    Args:
        lines: The report's lines.
        margin: In points of accuracy.
        weights: ``accuracy``, ``compression`` and ``speedup``.
        setting: The setting whose IS is in WS.
    """
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.name.removesuffix(f" #{line.row.seed}"), []).append(line)
    bases = {(line.row.model, line.row.seed): line for line in lines if line.row.baseline}
    several = [
        _pooled(name, sorted(own, key=lambda line: line.row.seed), bases, margin)
        for name, own in groups.items()
        if len(own) > 1
    ]
    several.sort(key=lambda engine: (bool(engine.barred), engine.score is None, -(engine.score or 0.0), engine.name))
    return tuple(
        engine
        if engine.score is None or engine.barred
        else replace(engine, rank=place, tied=place > 1 and not _ahead(several[0], engine, groups, weights, setting))
        for place, engine in enumerate(several, start=1)
    )


def _ahead(
    first: Pooled, other: Pooled, groups: Mapping[str, Sequence[Line]], weights: Mapping[str, float], setting: str
) -> bool:
    """Whether the first's mean WS is ahead by more than the noise of accuracy and of both IS, added as squares."""
    mine, theirs = ({line.row.seed: line for line in groups[engine.name]} for engine in (first, other))
    seeds = sorted(mine.keys() & theirs.keys())
    if not seeds or any(setting not in engine.speedups for engine in (first, other)):
        return False
    apart = _apart([(mine[seed], theirs[seed]) for seed in seeds])
    accuracy = seeds_interval(apart, mine[seeds[0]].groups).half_width
    times = [engine.speedups[setting].half_width for engine in (first, other)]
    noise = math.hypot(weights["accuracy"] * 100 * accuracy, *(weights["speedup"] * width for width in times))
    return (first.score or 0.0) - (other.score or 0.0) > noise


def _pooled(name: str, own: Sequence[Line], bases: Mapping[tuple[str, int], Line], margin: float) -> Pooled:
    accuracies = [line.accuracy.estimate for line in own]
    scores = [line.score for line in own if line.score is not None]
    pairs = [(line, bases[key]) for line in own if (key := (line.row.model, line.row.seed)) in bases]
    baseline = all(line.row.baseline for line in own)
    difference, not_worse = None, None
    if pairs and not baseline:
        apart = _apart(pairs)
        groups = pairs[0][0].groups
        difference = widened(pooled(apart), apart.mean(axis=0), groups)
        not_worse = answer_of(seeds_interval(apart, groups), margin / 100)
    return Pooled(
        name=name,
        seeds=tuple(line.row.seed for line in own),
        baseline=baseline,
        accuracy=float(np.mean(accuracies)),
        spread=float(np.std(accuracies, ddof=1)),
        difference=difference,
        not_worse=not_worse,
        size_mb=float(np.mean([line.size_mb for line in own])),
        speedups=_speedups(own),
        score=float(np.mean(scores)) if len(scores) == len(own) else None,
        barred=_barred(own),
    )


def _apart(pairs: Sequence[tuple[Line, Line]]) -> NDArray[np.float64]:
    """Return by how much more each example contributes to the metric of one engine than of another, by seed."""
    each = [
        metric.contributions(one.kind, one.scores) - metric.contributions(two.kind, two.scores) for one, two in pairs
    ]
    return np.stack(each)


def _barred(own: Sequence[Line]) -> tuple[str, ...]:
    """Return each mark that bars an engine from being shipped, with the seeds that have it."""
    seeds: dict[str, list[int]] = {}
    for line in own:
        for mark in dict.fromkeys(reason.partition(":")[0] for reason in line.barred):
            seeds.setdefault(mark, []).append(line.row.seed)
    return tuple(
        f"{mark} ({'seed' if len(of) == 1 else 'seeds'} {', '.join(map(str, of))})" for mark, of in seeds.items()
    )


def _speedups(own: Sequence[Line]) -> dict[str, Interval]:
    """IS at every setting at which all seeds were timed in the same rounds."""
    speedups = {}
    for setting in own[0].round_ratios:
        ratios = [line.round_ratios[setting] for line in own if setting in line.round_ratios]
        if len(ratios) == len(own) and len({len(each) for each in ratios}) == 1 and len(ratios[0]) > 1:
            logs = pooled(np.log(np.stack(ratios)))
            speedups[setting] = Interval(*(math.exp(value) for value in (logs.estimate, logs.low, logs.high)))
    return speedups
