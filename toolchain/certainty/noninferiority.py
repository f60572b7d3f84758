"""Is an engine at most so many points worse? A verdict for a stated margin, or how many examples would give one.

* The question, and why "no significant difference" does not answer it: Blackwelder, "Proving the null hypothesis in
  clinical trials", Controlled Clinical Trials 3 (1982).
* Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
  Statistics in Medicine 17 (1998): :func:`score_interval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toolchain.certainty.statistics import (
    CONFIDENCE,
    Interval,
    accuracy_difference,
    design_effect,
    discordant,
    pooled,
    widened,
)

#: Points of accuracy that an engine may be worse, where nothing else is asked for.
MARGIN = 0.5
#: Chance that the examples which :attr:`NonInferiority.needed` names suffice.
POWER = 0.8
#: Examples beyond which no number is named.
MOST_NEEDED = 10_000_000

Answer = Literal["yes", "no", "cannot say"]


@dataclass(frozen=True)
class NonInferiority:
    """Whether an engine is at most a margin worse than its baseline.

    Attributes:
        answer: "yes" where the whole interval of the difference is above minus the margin, "no" where it is below.
        examples: Examples that it was judged on.
        needed: About how many would settle it, to two digits; None where it is settled, or where more than ten million
            would be needed.
        interval: The difference of the metric, with the interval that the answer rests on.
        lost: Examples that only the baseline has right; None where the metric does not count right examples.
        won: Examples that only the engine has right; None likewise.
        effect: How many times as many examples are needed as if they were independent.
    """

    answer: Answer
    examples: int
    needed: int | None
    interval: Interval
    lost: int | None
    won: int | None
    effect: float

    def __str__(self) -> str:
        if self.answer != "cannot say":
            return self.answer
        much = f"about {self.needed:,} would do" if self.needed else f"more than {MOST_NEEDED:,} would be needed"
        return f"cannot say with {self.examples:,} examples; {much}"


def judge(
    base: NDArray[np.bool_], variant: NDArray[np.bool_], margin: float, groups: NDArray[np.int64] | None = None
) -> NonInferiority:
    """Judges an engine on the examples that its baseline was judged on.

    The interval reaches as far as the wider of two at each end: the paired bootstrap's, which stands in the table, and
    Tango's, which does not shrink to a point where two engines hardly ever disagree. An engine that is worse by just
    the margin then gets a "yes" in at most 2.5 % of experiments.

    Where it cannot be said, the examples needed are those that settle it with a chance of 80 %, if the shares of
    examples lost and won, ψ together and d apart, stay as found:
    ``n = (z₀.₉₇₅ + z₀.₈)²·(ψ - d²) / (d + margin)²``, and for a "yes" no less than engines that never disagree need.

    Args:
        base: Which examples the baseline has right, ``[examples]``.
        variant: Which examples the other engine has right, in the same order.
        margin: Above 0, below 1; 0.005 is half a point.
        groups: Which examples hang together, ``[examples]``; the interval is then wider, and more are needed.

    Raises:
        ValueError: The two do not cover the same, non-empty examples, or the margin is out of range.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin {margin}: above 0 and below 1 is allowed")
    lost, won = discordant(base, variant)
    resampled, scored = accuracy_difference(base, variant), score_interval(lost, won, len(base))
    interval = Interval(resampled.estimate, min(resampled.low, scored.low), max(resampled.high, scored.high))
    apart = variant * 1.0 - base * 1.0
    interval = widened(interval, apart, groups)
    answer = answer_of(interval, margin)
    effect = design_effect(apart, groups)
    needed = examples_needed(lost, won, len(base), margin, effect) if answer == "cannot say" else None
    return NonInferiority(answer, len(base), needed, interval, lost, won, effect)


def seeds_interval(differences: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> Interval:
    """The interval of a difference over several seeds that a verdict may rest on.

    It is that of :func:`~toolchain.certainty.statistics.pooled`, and no narrower than one of examples on which two
    engines never disagree.

    Args:
        differences: ``[seeds, examples]``, of -1, 0 and 1.
        groups: Which examples hang together, ``[examples]``; the interval is then wider.
    """
    found = widened(pooled(differences), differences.mean(axis=0), groups)
    least = score_interval(0, 0, differences.shape[1]).half_width
    return Interval(found.estimate, min(found.low, found.estimate - least), max(found.high, found.estimate + least))


def answer_of(interval: Interval, margin: float) -> Answer:
    """What an interval of the difference says.

    Args:
        interval: The variant's accuracy minus the baseline's.
        margin: In the same unit.
    """
    return "yes" if interval.low >= -margin else "no" if interval.high < -margin else "cannot say"


def score_interval(lost: int, won: int, total: int) -> Interval:
    """Tango's interval of a paired difference: the differences that a score test does not reject.

    The test of a difference Δ compares ``won - lost - total·Δ`` with its standard deviation under Δ,
    ``sqrt(total·(2q + |Δ| - Δ²))``, where q is the maximum likelihood estimate of the rarer disagreement's share.

    Args:
        lost: Examples that only the baseline has right.
        won: Examples that only the variant has right.
        total: All examples, at least 1.

    Raises:
        ValueError: The counts are out of range.
    """
    if min(lost, won) < 0 or total < max(1, lost + won):
        raise ValueError(f"{lost} lost and {won} won of {total} are no counts of one set of examples")
    return Interval((won - lost) / total, -_upper(won, lost, total), _upper(lost, won, total))


def _upper(lost: int, won: int, total: int) -> float:
    """The largest difference that is not rejected, by bisection from the estimate up."""
    bound = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    low, high = (won - lost) / total, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        rejected = _score(lost, won, total, middle) < -bound
        low, high = (low, middle) if rejected else (middle, high)
    return (low + high) / 2


def _score(lost: int, won: int, total: int, difference: float) -> float:
    """The score statistic of a difference; below 0 where less was won than it asks for."""
    if difference < 0:
        return -_score(won, lost, total, -difference)
    linear = -(lost + won) + (2 * total - won + lost) * difference
    root = math.sqrt(linear * linear + 8 * total * lost * difference * (1 - difference))
    rarer = (root - linear) / (4 * total)
    variance = total * (2 * rarer + difference * (1 - difference))
    apart = won - lost - total * difference
    return apart / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, apart) if apart else 0.0


def examples_needed(lost: int, won: int, total: int, margin: float, effect: float = 1.0) -> int | None:
    """Return about how many examples settle a margin with the power asked for, rounded up to two digits.

    Args:
        lost: Examples that only the baseline has right.
        won: Examples that only the engine has right.
        total: All examples.
        margin: Above 0, below 1.
        effect: How many times as many are needed as if examples were independent.

    Returns:
        The number, or None where more than ten million would be needed.
    """
    reach = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    psi, apart = (lost + won) / total, (won - lost) / total
    if apart == -margin:
        return None
    never_disagree = reach**2 * (1 - margin) / margin if apart > -margin else 0.0
    both = (reach + NormalDist().inv_cdf(POWER)) ** 2 * (psi - apart**2) / (apart + margin) ** 2
    examples = max(effect * both, never_disagree, total + 1)
    return None if examples > MOST_NEEDED else rounded_up(examples)


def rounded_up(examples: float) -> int:
    """Return a number of examples, rounded up to two digits."""
    step: int = 10 ** max(0, math.floor(math.log10(examples)) - 1)
    return math.ceil(examples / step) * step
