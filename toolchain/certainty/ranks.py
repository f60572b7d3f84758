"""How far the data settle an order by WS, and how far the weights do.

* Goldstein and Spiegelhalter, "League tables and their limitations", Journal of the Royal Statistical Society A 159
  (1996), and Hall and Miller, "Using the bootstrap to quantify the authority of an empirical ranking", Annals of
  Statistics 37 (2009): intervals of ranks.
* Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69 (2015): a bootstrap of few
  values is too narrow, by how much, and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from toolchain.certainty import bootstrap
from toolchain.certainty.statistics import CONFIDENCE, student_quantile

#: Bootstrap resamples of all engines together.
RESAMPLES = bootstrap.RESAMPLES
#: Share of resamples in which an engine must be ahead for the order to be settled. Of two that are equal one is then
#: called better in about 3 % of experiments: less than 5 % also where resamples are not quite what they stand for.
SETTLED = 0.985
#: Examples that are added of each engine alone right, and alone wrong.
ALONE = 0.25
#: Standard error of a median over that of a mean, of many normal values.
MEDIAN_ERROR = math.sqrt(math.pi / 2)
#: Steps along each side of the triangle of weights.
STEPS = 120

Weights = tuple[float, float, float]


@dataclass(frozen=True)
class Scored:
    """What an engine's WS is made of.

    Attributes:
        scores: Which examples it has right, ``[examples]``, or what another metric needs of each, ``[examples, k]``;
            the same examples for all engines.
        compression: CR.
        ratios: IS in each round of timing, ``[rounds]``: the same rounds for all engines.
        metric: The metric, the same for all engines; None where it is the share of right examples.
    """

    scores: NDArray[np.bool_] | NDArray[np.float64]
    compression: float
    ratios: NDArray[np.float64]
    metric: bootstrap.Metric | None = None

    @property
    def parts(self) -> Weights:
        """A in percent, CR and IS."""
        return 100 * self._figure, self.compression, float(np.median(self.ratios))

    @property
    def _figure(self) -> float:
        if self.metric is None:
            return float(self.scores.mean())
        return bootstrap.whole(self.metric, np.asarray(self.scores, dtype=np.float64))


@dataclass(frozen=True)
class Order:
    """What the resampled scores say of the engines' order.

    Attributes:
        ranks: Lowest and highest rank of each engine that the data leave open, with 95 %.
        ahead: ``[engines, engines]``: whether the data settle that one's WS is above the other's.
    """

    ranks: tuple[tuple[int, int], ...]
    ahead: NDArray[np.bool_]

    def tied(self, one: int, other: int) -> bool:
        """Whether the data do not settle which of two engines is ahead."""
        return not (self.ahead[one, other] or self.ahead[other, one])


def order(engines: Sequence[Scored], weights: Weights, groups: NDArray[np.int64] | None = None, seed: int = 0) -> Order:
    """Resamples examples and rounds together, for all engines at once, and ranks them in every resample.

    Args:
        engines: At least one.
        weights: Of A in percent, CR and IS.
        groups: Which examples hang together, ``[examples]``, and are drawn together; None where none do.
        seed: Seed of the resampling.
    """
    scores = resampled(engines, weights, groups, seed)
    count = len(engines)
    above = np.zeros((len(scores), count), dtype=np.int64)
    ahead = np.zeros((count, count), dtype=bool)
    tail = (1 - CONFIDENCE) / 2
    for other in range(count):
        better = scores[:, other, None] > scores
        above += better
        ahead[other] = better.mean(axis=0) >= SETTLED
    lowest = np.quantile(above, tail, axis=0, method="lower") + 1
    highest = np.quantile(above, 1 - tail, axis=0, method="higher") + 1
    return Order(tuple(zip(lowest.tolist(), highest.tolist(), strict=True)), ahead)


def resampled(
    engines: Sequence[Scored], weights: Weights, groups: NDArray[np.int64] | None = None, seed: int = 0
) -> NDArray[np.float64]:
    """WS of every engine in every resample, ``[resamples, engines]``.

    Examples are drawn as counts of their patterns (which engines have them right): the same distribution in less time.
    To the patterns found each engine adds a quarter of an example that it alone has right, and one that it alone has
    wrong: every pair then has half an example more of either disagreement (Agresti and Min, Statistics in Medicine 24,
    2005), without which a handful of disagreements, all one way, would settle what they do not. IS is drawn as
    :func:`_drawn_speedups` says. What has a weight of 0 is not drawn.

    Args:
        engines: At least one, all of the same examples.
        weights: Of A in percent, CR and IS.
        groups: Which examples hang together, ``[examples]``, and are drawn together; None where none do.
        seed: Seed of the resampling.

    Raises:
        ValueError: The engines were not evaluated on the same number of examples.
    """
    if len({engine.scores.shape for engine in engines}) != 1:
        raise ValueError("the engines' examples are not the same: their order cannot be resampled")
    random = np.random.default_rng(seed)
    of_accuracy, of_compression, of_speedup = weights
    scores = np.tile([of_compression * float(engine.compression) for engine in engines], (RESAMPLES, 1))
    metric = engines[0].metric
    if of_accuracy and metric is not None:
        found = bootstrap.resampled(
            metric, [np.asarray(engine.scores, dtype=np.float64) for engine in engines], groups, random=random
        )
        scores += of_accuracy * 100 * found
    elif of_accuracy:
        right = np.stack([engine.scores for engine in engines], axis=1).astype(np.float64)
        sizes = np.ones(len(right))
        if groups is not None:
            _, numbers = np.unique(groups, return_inverse=True)
            sizes = np.bincount(numbers.ravel()).astype(np.float64)
            right = np.stack([np.bincount(numbers.ravel(), column) for column in right.T], axis=1)
        alone = np.eye(len(engines))
        found = np.column_stack([np.concatenate([right, alone, 1 - alone]), [*sizes, *np.ones(2 * len(engines))]])
        kinds, places = np.unique(found, axis=0, return_inverse=True)
        chances = np.bincount(places.ravel(), np.repeat([1.0, ALONE], [len(right), 2 * len(engines)]))
        drawn = random.multinomial(len(right), chances / chances.sum(), size=RESAMPLES) @ kinds
        scores += of_accuracy * 100 * drawn[:, :-1] / drawn[:, -1:]
    if of_speedup:
        uniform = random.random((RESAMPLES, max(len(engine.ratios) for engine in engines)))
        for index, engine in enumerate(engines):
            scores[:, index] += of_speedup * _drawn_speedups(engine.ratios, uniform)
    return scores


def _drawn_speedups(ratios: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """IS in every resample of the rounds: the median, and about it how far the resampled means lie from the mean.

    Medians of few rounds take few values, and an interval from them is now too narrow and now too wide; means do not.
    Their distances are stretched by the standard error of a median over that of a mean, and by what a bootstrap of n
    values lacks: √(n/(n-1)), and Student's quantile over the normal one. One round leaves everything open, unless it is
    the baseline's own, whose ratio is 1.

    Args:
        ratios: ``[rounds]``.
        places: Uniform on [0, 1), ``[resamples, rounds or more]``; the same for engines of the same rounds.
    """
    rounds, estimate = len(ratios), float(np.median(ratios))
    if rounds == 1:
        return np.full(len(places), estimate) if estimate == 1.0 else np.where(places[:, 0] < 0.5, -math.inf, math.inf)
    means = ratios[(places[:, :rounds] * rounds).astype(np.int64)].mean(axis=1)
    quantiles = student_quantile(0.5 + CONFIDENCE / 2, rounds - 1) / NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    stretch = MEDIAN_ERROR * quantiles * math.sqrt(rounds / (rounds - 1))
    return np.asarray(estimate + stretch * (means - ratios.mean()))


def weight_ranges(parts: Sequence[Weights], weights: Weights, winner: int) -> tuple[tuple[float, float], ...]:
    """For each weight, the range over which an engine stays first while the other two weights stay.

    Args:
        parts: A in percent, CR and IS of each engine.
        weights: The weights under which the winner is first.
        winner: Its position.

    Returns:
        Lowest and highest weight, at least 0; infinite where no weight is too large.
    """
    lead = np.asarray(parts[winner]) - np.asarray(parts)
    found = []
    for index in range(3):
        others = lead @ np.where(np.arange(3) == index, 0.0, weights)
        low, high = 0.0, math.inf
        for slope, rest in zip(lead[:, index], others, strict=True):
            if slope > 0:
                low = max(low, -rest / slope)
            elif slope < 0:
                high = min(high, -rest / slope)
        found.append((min(low, weights[index]), max(high, weights[index])))
    return tuple(found)


def weight_shares(parts: Sequence[Weights]) -> list[float]:
    """The share of all weights that add up to 1 under which each engine is first; they add up to 1.

    The triangle of weights is cut into small ones of the same size, and each is given to the engine that is first at
    its centre.

    Args:
        parts: A in percent, CR and IS of each engine.
    """
    down = [(i, j) for i in range(STEPS) for j in range(STEPS - i)]
    centres = [(i + 1 / 3, j + 1 / 3) for i, j in down] + [(i + 2 / 3, j + 2 / 3) for i, j in down if i + j < STEPS - 1]
    first = np.asarray(centres) / STEPS
    weights = np.column_stack([first, 1 - first.sum(axis=1)])
    wins = np.argmax(weights @ np.asarray(parts, dtype=np.float64).T, axis=1)
    return [float(share) for share in np.bincount(wins, minlength=len(parts)) / len(weights)]
