"""How sure a ranking is: ranks that the data leave open, ties, what the weights decide, and what nothing beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from toolchain.certainty import pareto, ranks
from toolchain.certainty.statistics import holm
from toolchain.core.errors import StoreError
from toolchain.deliver.report import metric
from toolchain.deliver.report.line import Line

#: What WS weighs, in the order of its formula.
WEIGHTS = ("accuracy", "compression", "speedup")

#: Points below the baseline's accuracy at which the hypervolume begins.
FLOOR_POINTS = 5.0


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The engine with the highest WS of those that may be shipped.

    Attributes:
        name: The engine.
        tied: Others that may be shipped and that the data do not settle to be behind it, by rank.
        ranges: For each weight, from where to where it may move, the other two held, with this engine first.
        share: The share of all weights under which it is first of those that may be shipped.
    """

    name: str
    tied: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    share: float

    @property
    def settled(self) -> bool:
        """Whether the data put it ahead of every other that may be shipped."""
        return not self.tied


@dataclass(frozen=True, kw_only=True)
class Front:
    """The sound engines of a model and seed that no sound one beats in accuracy, size and speed together.

    Attributes:
        model: The model's name.
        seed: Its seed.
        engines: Their names, by rank.
        hypervolume: What they cover: points of accuracy above the reference, times the share of bytes saved, times the
            share of time saved.
        floor_percent: The reference's accuracy; its size and time are the baseline's.
    """

    model: str
    seed: int
    engines: tuple[str, ...]
    hypervolume: float
    floor_percent: float


def corrected(lines: Sequence[Line]) -> list[Line]:
    """The lines with McNemar's p-values corrected for how many engines are compared with a baseline."""
    tested = [line for line in lines if line.p_value is not None and not line.row.baseline]
    corrected_ps = holm([line.p_value for line in tested if line.p_value is not None])
    p_values = {line.name: value for line, value in zip(tested, corrected_ps, strict=True)}
    return [replace(line, p_holm=p_values.get(line.name)) for line in lines]


def ranked(lines: Sequence[Line], weights: Mapping[str, float], setting: str) -> tuple[list[Line], Winner | None]:
    """The lines in the report's order, with ranks, what the data leave open of them, and ties; and the winner.

    Args:
        lines: Compared with their baselines, and scored.
        weights: ``accuracy``, ``compression`` and ``speedup``.
        setting: The setting whose IS is in WS.

    Raises:
        StoreError: Engines were evaluated on different numbers of examples.
    """
    ordered = sorted(
        lines, key=lambda line: (bool(line.barred), line.score is None, bool(line.error), -(line.score or 0), line.name)
    )
    counts = {len(line.scores): line.name for line in ordered if line.score is not None}
    if len(counts) > 1:
        examples = ", ".join(f"{name} on {count}" for count, name in sorted(counts.items()))
        raise StoreError(
            f"engines were evaluated on different numbers of examples, and cannot be ranked together: {examples}",
            "evaluate them on the same data: 'toolchain run' with --force",
        )
    scored = [line for line in ordered if line.score is not None and not line.barred]
    if not scored:
        return ordered, None
    values = (weights["accuracy"], weights["compression"], weights["speedup"])
    engines = [_scored(line, line.round_ratios[setting]) for line in scored]
    order = ranks.order(engines, values, scored[0].groups)
    parts = [engine.parts for engine in engines]
    shares = ranks.weight_shares(parts)
    placed = [
        replace(
            line,
            rank=place + 1,
            tied=place > 0 and order.tied(place - 1, place),
            rank_range=order.ranks[place],
            weights_share=shares[place],
        )
        for place, line in enumerate(scored)
    ]
    winner = Winner(
        name=scored[0].name,
        tied=tuple(line.name for place, line in enumerate(scored) if place and order.tied(0, place)),
        ranges=dict(zip(WEIGHTS, ranks.weight_ranges(parts, values, 0), strict=True)),
        share=shares[0],
    )
    return [*placed, *ordered[len(scored) :]], winner


def _scored(line: Line, ratios: NDArray[np.float64]) -> ranks.Scored:
    if line.kind.METRIC.binary:
        return ranks.Scored(metric.right(line.scores), line.compression or 0.0, ratios)
    return ranks.Scored(line.scores, line.compression or 0.0, ratios, line.kind.resampled)


def fronts(lines: Sequence[Line], setting: str) -> tuple[Front, ...]:
    """What nothing beats, for every model and seed that has a timed baseline and a sound engine.

    Args:
        lines: The report's lines, in its order.
        setting: The setting whose IS is the speed.
    """
    by_model = []
    baselines = sorted((line.row.model, line.row.seed, line.name) for line in lines if line.row.baseline)
    named = {line.name: line for line in lines}
    for base in (named[name] for *_, name in baselines):
        floor = 100 * base.accuracy.estimate - FLOOR_POINTS
        gains: dict[str, pareto.Gains] = {}
        for line in lines:
            ratio = line.speedup_of("engine").get(setting)
            own = (line.row.model, line.row.seed) == (base.row.model, base.row.seed)
            if own and line.sound and ratio and line.compression:
                gains[line.name] = (100 * line.accuracy.estimate, 1 - 1 / line.compression, 1 - 1 / ratio.estimate)
        if not gains:
            continue
        names, points = list(gains), list(gains.values())
        by_model.append(
            Front(
                model=base.row.model,
                seed=base.row.seed,
                engines=tuple(names[place] for place in pareto.front(points)),
                hypervolume=pareto.hypervolume(points, (floor, 0.0, 0.0)),
                floor_percent=floor,
            )
        )
    return tuple(by_model)
