"""How sure a metric is, alone and against a baseline's: by counts of right examples where it is their share.

Such a metric has the intervals and tests of proportions: Wilson's, McNemar's and Tango's. Any other one is resampled
(``certainty.bootstrap``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain import kinds
from toolchain.certainty import bootstrap, noninferiority
from toolchain.certainty.noninferiority import NonInferiority
from toolchain.certainty.statistics import Interval, accuracy_difference, discordant, mcnemar, widened, wilson
from toolchain.core.data import CLASSIFICATION
from toolchain.kinds.contract import Kind, Metric

#: What reports are of that name no metric.
ACCURACY = kinds.get(CLASSIFICATION).METRIC

Scores = NDArray[np.float64]
Groups = NDArray[np.int64] | None


def right(scores: Scores) -> NDArray[np.bool_]:
    """Return which examples are right, of a metric that is their share."""
    return np.asarray(scores[:, 0] > 0.5)


def interval(kind: Kind, scores: Scores, groups: Groups) -> Interval:
    """Return the metric of scored examples with its 95 % interval.

    Args:
        kind: The kind of task.
        scores: What the metric needs of each example, ``[examples, k]``.
        groups: Which examples hang together, ``[examples]``; None where none do.
    """
    if not kind.METRIC.binary:
        return bootstrap.interval(kind.resampled, scores, groups)
    correct = right(scores)
    found = widened(wilson(int(correct.sum()), len(correct)), correct * 1.0, groups)
    return Interval(found.estimate, max(0.0, found.low), min(1.0, found.high))


def p_value(kind: Kind, base: Scores, variant: Scores) -> float | None:
    """Return McNemar's p-value of two engines that are equally right; None of other metrics."""
    return mcnemar(*discordant(right(base), right(variant))) if kind.METRIC.binary else None


def against(
    kind: Kind, base: Scores, variant: Scores, margin: float, groups: Groups
) -> tuple[Interval, NonInferiority]:
    """Return the metric of an engine less that of its baseline, with its 95 % interval, and the verdict on a margin.

    Args:
        kind: The kind of task.
        base: What the metric needs of each example of the baseline, ``[examples, k]``.
        variant: The same of the engine, in the same order.
        margin: By how much it may be worse, 0.005 for half a point.
        groups: Which examples hang together, ``[examples]``; None where none do.
    """
    if not kind.METRIC.binary:
        verdict = bootstrap.judge(kind.resampled, base, variant, margin, groups)
        return verdict.interval, verdict
    before, after = right(base), right(variant)
    found = widened(accuracy_difference(before, after), after * 1.0 - before * 1.0, groups)
    return found, noninferiority.judge(before, after, margin, groups)


def contributions(kind: Kind, scores: Scores) -> NDArray[np.float64]:
    """Return what each example contributes to the metric, ``[examples]``: 1 where it is right, of a share of those."""
    return right(scores) * 1.0 if kind.METRIC.binary else bootstrap.contributions(kind.resampled, scores)


def as_json(metric: Metric) -> dict[str, Any]:
    """Return what ``accuracy`` stands for in the names of a report's figures, as plain JSON values."""
    return {"name": metric.name, "unit": metric.unit, "binary": metric.binary}


def of_report(report: Mapping[str, Any]) -> Metric:
    """Return the metric of a ``report.json``; accuracy where it is of a version that had no other."""
    known = report.get("metric")
    return Metric(str(known["name"]), str(known["unit"]), binary=bool(known["binary"])) if known else ACCURACY
