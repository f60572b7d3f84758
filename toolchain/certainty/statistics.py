"""How sure a measurement is: intervals and paired tests, all deterministic.

* Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927): :func:`wilson`.
* McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12 (1947), in
  its exact, binomial form: :func:`mcnemar`.
* Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979), percentile intervals:
  :func:`accuracy_difference`.
* Hettmansperger and Sheather, "Confidence intervals based on interpolated order statistics", Statistics & Probability
  Letters 4 (1986): :func:`median_interval`, on which :func:`speedup` stands.
* Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979):
  :func:`holm`.
* Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2 (1946):
  :func:`pooled`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

#: Share of repetitions of an experiment in which an interval holds the true value.
CONFIDENCE = 0.95
#: Bootstrap resamples; the ends of an interval then move by about 2 % of its width between seeds.
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that the data leave open.

    Attributes:
        estimate: The best guess.
        low: Lower end of the 95 % interval.
        high: Upper end; infinite where the data set no bound.
    """

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's length, in the estimate's unit."""
        return (self.high - self.low) / 2

    @property
    def reach(self) -> float:
        """How far it reaches from the estimate, to the farther side, as a share of the estimate."""
        return max(self.high - self.estimate, self.estimate - self.low) / self.estimate

    def overlaps(self, other: Interval) -> bool:
        """Whether some value lies in both intervals."""
        return self.low <= other.high and other.low <= self.high


def wilson(correct: int, total: int) -> Interval:
    """Wilson's score interval of a proportion.

    With p = correct/total, n = total and z the normal quantile of the confidence:
    ``(p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)``. Unlike p ± z·sqrt(p(1-p)/n), it holds its coverage near
    1, where accuracies live, and never leaves [0, 1].

    Args:
        correct: Successes, 0 to total.
        total: Trials, at least 1.

    Returns:
        The proportion, 0 to 1, and its 95 % interval.

    Raises:
        ValueError: The counts are out of range.
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} correct of {total} is no proportion")
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    p = correct / total
    centre = p + z * z / (2 * total)
    reach = z * math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    # At the ends the formula gives exactly 0 and 1, but for rounding.
    low = 0.0 if correct == 0 else (centre - reach) / scale
    high = 1.0 if correct == total else (centre + reach) / scale
    return Interval(p, low, high)


def accuracy_difference(base: NDArray[np.bool_], variant: NDArray[np.bool_], seed: int = 0) -> Interval:
    """Paired bootstrap interval of ``accuracy(variant) - accuracy(base)``.

    An example contributes -1, 0 or +1 to the difference. Drawing n examples with replacement and counting each kind is
    one draw from a multinomial distribution, so the resamples are drawn as counts: the same distribution as resampling
    the examples themselves, in time and memory that do not depend on n.

    Args:
        base: Which examples the baseline has right, ``[examples]``.
        variant: Which examples the other engine has right, in the same order.
        seed: Seed of the resampling.

    Returns:
        The difference, -1 to 1, and its 95 % interval; the interval is a point where the two never disagree.

    Raises:
        ValueError: The two do not cover the same, non-empty examples.
    """
    lost, won = discordant(base, variant)
    total = len(base)
    shares = np.array([lost, won, total - lost - won], dtype=np.float64) / total
    counts = np.random.default_rng(seed).multinomial(total, shares, size=RESAMPLES)
    low, high = percentile_ends((counts[:, 1] - counts[:, 0]) / total)
    return Interval((won - lost) / total, low, high)


def discordant(base: NDArray[np.bool_], variant: NDArray[np.bool_]) -> tuple[int, int]:
    """How many examples only the baseline has right, and how many only the variant.

    Args:
        base: Which examples the baseline has right, ``[examples]``.
        variant: Which examples the other engine has right, in the same order.

    Raises:
        ValueError: The two do not cover the same, non-empty examples.
    """
    if base.shape != variant.shape or base.ndim != 1 or not len(base):
        raise ValueError(f"paired examples are needed, not shapes {base.shape} and {variant.shape}")
    return int(np.sum(base & ~variant)), int(np.sum(variant & ~base))


def mcnemar(only_base: int, only_variant: int) -> float:
    """Exact two-sided p-value of McNemar's test: are two engines equally accurate?

    Under that hypothesis each of the n examples that just one of them has right is a fair coin, so
    ``p = min(1, 2·P(X ≤ min(b, c)))`` with X binomial(n, 1/2). The terms are summed as logarithms, which holds for n
    where 2⁻ⁿ is no longer a double.

    Args:
        only_base: Examples that only the baseline has right (b).
        only_variant: Examples that only the variant has right (c).

    Returns:
        The p-value; 1 where the two never disagree.

    Raises:
        ValueError: A count is negative.
    """
    if min(only_base, only_variant) < 0:
        raise ValueError(f"counts cannot be negative: {only_base}, {only_variant}")
    n, k = only_base + only_variant, min(only_base, only_variant)
    log_all = math.lgamma(n + 1) - n * math.log(2)
    tail = math.fsum(math.exp(log_all - math.lgamma(i + 1) - math.lgamma(n - i + 1)) for i in range(k + 1))
    return min(1.0, 2 * tail)


def widened(interval: Interval, differences: NDArray[np.float64], groups: NDArray[np.int64] | None) -> Interval:
    """An interval that took examples for independent, for examples that hang together in groups.

    Both ends move away from the estimate by the root of the design effect (Kish, "Survey sampling", 1965): the variance
    of the mean by sums over groups, over that by single examples, at least 1.

    Args:
        interval: Of a mean.
        differences: What the mean is of, ``[examples]``.
        groups: The group of each example, ``[examples]``; None where they are independent.
    """
    root = math.sqrt(design_effect(differences, groups))
    low, high = (interval.estimate + root * (end - interval.estimate) for end in (interval.low, interval.high))
    return Interval(interval.estimate, low, high)


def design_effect(differences: NDArray[np.float64], groups: NDArray[np.int64] | None) -> float:
    """How many times as many examples are needed as if they were independent, at least 1.

    Args:
        differences: ``[examples]``.
        groups: The group of each example, ``[examples]``; None where they are independent.
    """
    apart = differences - differences.mean()
    alone = float(np.square(apart).sum())
    if groups is None or not alone:
        return 1.0
    _, numbers = np.unique(groups, return_inverse=True)
    sums = np.bincount(numbers.ravel(), apart)
    return max(1.0, float(np.square(sums).sum()) / alone * len(sums) / max(1, len(sums) - 1))


def speedup(base_rounds: Sequence[float], rounds: Sequence[float]) -> Interval:
    """Return how many times faster an engine is: the median over rounds of ``base/variant``, with its interval.

    The engines of a set take turns in every round, so what slows the machine in one round slows both, and the ratio is
    formed inside the round.

    Args:
        base_rounds: The baseline's time in each round, in any unit, above 0.
        rounds: The other engine's time in the same rounds and unit.

    Returns:
        The ratio, above 1 where the variant is faster, and its 95 % interval. One round says nothing of the
        spread: its interval is 0 to infinity. Below six rounds the interval runs from the lowest to the highest ratio.

    Raises:
        ValueError: The rounds are not paired, or a time is not above 0.
    """
    if len(base_rounds) != len(rounds) or not rounds:
        raise ValueError(f"paired rounds are needed, not {len(base_rounds)} and {len(rounds)}")
    if min(*base_rounds, *rounds) <= 0:
        raise ValueError("times must be above 0")
    ratios = np.asarray(base_rounds, dtype=np.float64) / np.asarray(rounds, dtype=np.float64)
    if len(ratios) == 1:
        return Interval(float(ratios[0]), 0.0, math.inf)
    middle, low, high = median_interval(ratios)
    return Interval(float(middle), float(low), float(high))


def median_interval(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return medians over the last axis, and the lower and upper ends of their 95 % intervals.

    The interval from the d-th lowest to the d-th highest of n values holds the median with probability
    ``1 - 2·P(X < d)``, X binomial(n, 1/2), whatever the distribution. The two depths on either side of 95 % are
    interpolated with the weights of Hettmansperger and Sheather. A percentile bootstrap of the median holds it in 87 %
    of cases at seven values. Below six values no depth reaches 95 %: the interval is the range.

    Args:
        values: ``[..., n]``, n at least 2.
    """
    ordered = np.sort(values, axis=-1)
    depth, share = _depth(values.shape[-1])
    ends = [(1 - share) * each[..., depth - 1] + share * each[..., depth] for each in (ordered, ordered[..., ::-1])]
    return np.median(ordered, axis=-1), *ends


@cache
def _depth(count: int) -> tuple[int, float]:
    """Return at which order statistic, from 1, an interval of a median ends, and how far to go towards the next."""

    def coverage(depth: int) -> float:
        return float(1 - 2 * sum(math.comb(count, i) for i in range(depth)) / 2**count)

    if coverage(1) <= CONFIDENCE:
        return 1, 0.0
    depth = max(d for d in range(1, count // 2 + 1) if coverage(d) >= CONFIDENCE)
    part = (coverage(depth) - CONFIDENCE) / (coverage(depth) - coverage(depth + 1))
    return depth, (count - depth) * part / (depth + (count - 2 * depth) * part)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: below 5 % for a true hypothesis with a chance of 5 % over all of them together.

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on; none gets below one before it. It needs
    no assumption on how the tests hang together, which those against one baseline do.

    Args:
        p_values: One for each comparison.

    Returns:
        The corrected ones, in the same order, at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, least = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p_values[index]))
        corrected[index] = least
    return corrected


def pooled(differences: NDArray[np.float64]) -> Interval:
    """The mean of paired differences over seeds and examples, with an interval for other seeds and other examples.

    Seeds and examples are crossed, and both drawn from more: the variance of the mean is what examples, seeds and the
    rest add, from the analysis of variance of a two-way layout, and its degrees of freedom are Satterthwaite's. With
    one seed it speaks of other examples alone.

    Args:
        differences: ``[seeds, examples]``; of accuracy: -1, 0 and 1. Rounds of a timing may stand for examples.

    Returns:
        The mean and its 95 % interval, in the differences' unit.

    Raises:
        ValueError: There are no seeds, or fewer than two examples.
    """
    if differences.ndim != 2 or len(differences) < 1 or differences.shape[1] < 2:
        raise ValueError(f"seeds of two examples or more are needed, not shape {differences.shape}")
    seeds, examples = differences.shape
    mean = float(differences.mean())
    by_example, by_seed = differences.mean(0), differences.mean(1)
    of_examples = float(by_example.var(ddof=1)) / examples
    of_seeds, freedom = 0.0, float(examples - 1)
    if seeds > 1:
        rest = differences - by_example - by_seed[:, None] + mean
        error = float(np.square(rest).sum()) / ((seeds - 1) * (examples - 1)) / (seeds * examples)
        between = float(by_seed.var(ddof=1)) / seeds
        of_seeds = max(0.0, between - error)
        if of_seeds:
            freedom = (of_examples + of_seeds) ** 2 / (of_examples**2 / (examples - 1) + between**2 / (seeds - 1))
    reach = student_quantile(0.5 + CONFIDENCE / 2, freedom) * (of_examples + of_seeds) ** 0.5
    return Interval(mean, mean - reach, mean + reach)


@cache
def student_quantile(share: float, freedom: float) -> float:
    """The value below which a share of Student's t distribution lies.

    With x = √f·tan θ and f degrees of freedom the density becomes ``cos^(f-1) θ``, which is smooth: its integral is a
    Gauss-Legendre sum, and the share is met by bisection. No library is needed, and up to a share of 0.995 it agrees
    with scipy's to six digits.

    Args:
        share: 0.5 to less than 1.
        freedom: Degrees of freedom, from 1 on; they need not be whole.

    Raises:
        ValueError: An argument is out of range.
    """
    if not (0.5 <= share < 1 and freedom >= 1):
        raise ValueError(f"share {share} and freedom {freedom}: 0.5 to 1, and at least 1, are needed")
    nodes, sizes = np.polynomial.legendre.leggauss(64)  # type: ignore[no-untyped-call]
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    # Beyond 40 standard deviations of the angle nothing is left of the density.
    low, high = 0.0, min(math.pi / 2, 40 / math.sqrt(freedom))
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        inside = np.cos((nodes + 1) * middle / 2) ** (freedom - 1) * sizes
        low, high = (middle, high) if 0.5 + scale * middle / 2 * float(inside.sum()) < share else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def percentile_ends(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the percentile interval of a resampled statistic."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
