"""Intervals of any metric by the paired bootstrap: examples, or whole groups of them, are drawn anew.

* Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979): percentile intervals.
* Koehn, "Statistical significance tests for machine translation evaluation", EMNLP 2004: two engines are compared in
  the same resamples, whatever the metric.
* Field and Welsh, "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69 (2007): examples that
  hang together are drawn together.
* Tukey, "Bias and confidence in not-quite large samples", Annals of Mathematical Statistics 29 (1958): pseudo-values,
  what each example contributes to a metric that is not a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from toolchain.certainty.noninferiority import MOST_NEEDED, POWER, NonInferiority, answer_of, rounded_up
from toolchain.certainty.statistics import CONFIDENCE, Interval, percentile_ends

#: Resamples; the ends of an interval then move by about 4 % of its width between seeds.
RESAMPLES = 2_000

#: Numbers of a block of resamples that are held at a time.
BLOCK = 2**21

#: A metric in resamples: of scores ``[examples, k]`` and how often each example was drawn ``[resamples, examples]``,
#: the metric of each resample ``[resamples]``.
Metric = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]


def interval(
    metric: Metric, scores: NDArray[np.float64], groups: NDArray[np.int64] | None = None, seed: int = 0
) -> Interval:
    """Return a metric and its 95 % interval.

    Args:
        metric: The metric.
        scores: What it needs of each example, ``[examples, k]``.
        groups: Which examples hang together, ``[examples]``; None where none do.
        seed: Seed of the resampling.
    """
    return _around(whole(metric, scores), resampled(metric, [scores], groups, seed=seed)[:, 0])


def difference(
    metric: Metric, base: NDArray[np.float64], variant: NDArray[np.float64],
    groups: NDArray[np.int64] | None = None, seed: int = 0,
) -> Interval:  # fmt: skip
    """Return ``metric(variant) - metric(base)`` and its 95 % interval; both are drawn in the same resamples.

    Args:
        metric: The metric.
        base: What it needs of each example of the baseline, ``[examples, k]``.
        variant: The same of the other engine, in the same order.
        groups: Which examples hang together, ``[examples]``; None where none do.
        seed: Seed of the resampling.

    Raises:
        ValueError: The two do not cover the same, non-empty examples.
    """
    if base.shape != variant.shape or base.ndim != 2 or not len(base):
        raise ValueError(f"paired examples are needed, not shapes {base.shape} and {variant.shape}")
    drawn = resampled(metric, [base, variant], groups, seed=seed)
    return _around(whole(metric, variant) - whole(metric, base), drawn[:, 1] - drawn[:, 0])


def judge(
    metric: Metric, base: NDArray[np.float64], variant: NDArray[np.float64], margin: float,
    groups: NDArray[np.int64] | None = None,
) -> NonInferiority:  # fmt: skip
    """Return whether an engine is at most a margin worse than its baseline, by the interval of :func:`difference`.

    Where it cannot be said, the examples needed are those that settle it with a chance of 80 %, if the difference d
    stays as found and its standard error s shrinks with the root of their number:
    ``n·((z₀.₉₇₅ + z₀.₈)·s / (d + margin))²``.

    Args:
        metric: The metric.
        base: What it needs of each example of the baseline, ``[examples, k]``.
        variant: The same of the other engine, in the same order.
        margin: Above 0, in the metric's unit.
        groups: Which examples hang together, ``[examples]``; None where none do.
    """
    apart = difference(metric, base, variant, groups)
    answer, needed = answer_of(apart, margin), None
    quantile = NormalDist().inv_cdf
    ahead = apart.estimate + margin
    if answer == "cannot say" and ahead:
        error = apart.half_width / quantile(0.5 + CONFIDENCE / 2)
        examples = len(base) * ((quantile(0.5 + CONFIDENCE / 2) + quantile(POWER)) * error / ahead) ** 2
        needed = rounded_up(max(examples, len(base) + 1)) if examples <= MOST_NEEDED else None
    return NonInferiority(answer, len(base), needed, apart, None, None, 1.0)


def contributions(metric: Metric, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each example contributes to a metric, ``[examples]``: Tukey's pseudo-values.

    With n examples, the metric θ, and θ₋ᵢ without the i-th of them, it is ``n·θ - (n - 1)·θ₋ᵢ``. Of a metric that is a
    mean these are the values that it is the mean of; of others their mean and its standard error are close to the
    metric and its own.

    Args:
        metric: The metric.
        scores: What it needs of each example, ``[examples, k]``.
    """
    count = len(scores)
    without = np.empty(count)
    for start in range(0, count, rows := max(1, BLOCK // max(1, count))):
        counts = np.ones((min(rows, count - start), count), dtype=np.int64)
        counts[np.arange(len(counts)), start + np.arange(len(counts))] = 0
        without[start : start + len(counts)] = metric(scores, counts)
    return np.asarray(count * whole(metric, scores) - (count - 1) * without)


def resampled(
    metric: Metric, engines: Sequence[NDArray[np.float64]], groups: NDArray[np.int64] | None = None, *,
    seed: int = 0, random: np.random.Generator | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the metric of every engine in every resample, ``[resamples, engines]``; the same draws for all.

    Args:
        metric: The metric.
        engines: What it needs of each example, ``[examples, k]``, of every engine; the same examples.
        groups: Which examples hang together, ``[examples]``; None where none do.
        seed: Seed of the resampling.
        random: What draws, in place of a seed.
    """
    blocks = _draws(len(engines[0]), groups, random or np.random.default_rng(seed))
    return np.concatenate([np.stack([metric(scores, counts) for scores in engines], axis=1) for counts in blocks])


def _draws(examples: int, groups: NDArray[np.int64] | None, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield how often each example is drawn, ``[resamples, examples]``, in blocks."""
    numbers = np.arange(examples) if groups is None else np.unique(groups, return_inverse=True)[1].ravel()
    count = int(numbers.max()) + 1
    rows = max(1, BLOCK // examples)
    for start in range(0, RESAMPLES, rows):
        block = min(rows, RESAMPLES - start)
        drawn = random.integers(0, count, (block, count)) + count * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * count).reshape(block, count)[:, numbers]


def whole(metric: Metric, scores: NDArray[np.float64]) -> float:
    """Return the metric of all examples as they are."""
    return float(metric(scores, np.ones((1, len(scores)), dtype=np.int64))[0])


def _around(estimate: float, values: NDArray[np.float64]) -> Interval:
    low, high = percentile_ends(values)
    return Interval(estimate, min(low, estimate), max(high, estimate))
