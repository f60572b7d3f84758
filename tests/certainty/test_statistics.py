from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from toolchain.certainty.statistics import (
    Interval,
    accuracy_difference,
    discordant,
    holm,
    mcnemar,
    median_interval,
    pooled,
    speedup,
    student_quantile,
    wilson,
)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I,
    # method 3: the score interval without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_the_published_intervals(correct: int, total: int, low: float, high: float) -> None:
    interval = wilson(correct, total)
    assert interval.estimate == correct / total
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_wilson_is_symmetric_and_never_leaves_zero_to_one() -> None:
    for correct in range(51):
        interval, mirrored = wilson(correct, 50), wilson(50 - correct, 50)
        assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
        assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def test_wilson_covers_the_true_accuracy_as_often_as_it_says() -> None:
    # Exact coverage, summed over every outcome of 872 examples (SST-2 dev) at an accuracy of 0.9.
    total, accuracy = 872, 0.9
    logs = np.array(
        [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(total + 1)]
    )
    k = np.arange(total + 1)
    chances = np.exp(logs + k * math.log(accuracy) + (total - k) * math.log(1 - accuracy))
    intervals = [wilson(int(count), total) for count in k]
    covered = sum(chance for chance, i in zip(chances, intervals, strict=True) if i.low <= accuracy <= i.high)
    assert covered == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("correct", "total"), [(-1, 10), (11, 10), (0, 0)])
def test_wilson_refuses_counts_that_are_no_proportion(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(correct, total)


def test_mcnemar_equals_the_binomial_sum() -> None:
    # 13 coins, at most 3 of one side: 2 · (C(13,0) + C(13,1) + C(13,2) + C(13,3)) / 2^13 = 2 · 378 / 8192.
    assert mcnemar(10, 3) == pytest.approx(2 * 378 / 8192, rel=1e-12)
    assert mcnemar(3, 10) == mcnemar(10, 3)
    assert mcnemar(6, 0) == pytest.approx(2 / 64, rel=1e-12)


def test_mcnemar_holds_for_counts_whose_binomials_overflow() -> None:
    # scipy.stats.binomtest(49000, 100000).pvalue of scipy 1.17.1.
    assert mcnemar(49_000, 51_000) == pytest.approx(2.5887160383468943e-10, rel=1e-8)
    assert mcnemar(50_000, 50_000) == 1.0


def test_mcnemar_of_engines_that_never_disagree_is_one() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 3)


def test_the_accuracy_difference_is_paired() -> None:
    # 1,000 examples, 30 lost and 10 won: the difference is -0.02. Its standard error, paired, is
    # sqrt((40 - 20²/1000) / 1000²) = 0.006293, so the interval is close to -0.02 ± 1.96 · 0.006293.
    base = np.array([True] * 870 + [True] * 30 + [False] * 10 + [False] * 90)
    variant = np.array([True] * 870 + [False] * 30 + [True] * 10 + [False] * 90)
    assert discordant(base, variant) == (30, 10)
    interval = accuracy_difference(base, variant)
    assert interval.estimate == -0.02
    assert interval.low == pytest.approx(-0.02 - 1.96 * 0.006293, abs=0.001)
    assert interval.high == pytest.approx(-0.02 + 1.96 * 0.006293, abs=0.001)


def test_the_accuracy_difference_of_equal_engines_is_a_point_at_zero() -> None:
    right = np.array([True, False, True])
    assert accuracy_difference(right, right) == Interval(0.0, 0.0, 0.0)


def test_the_accuracy_difference_is_the_same_every_time() -> None:
    rng = np.random.default_rng(3)
    base, variant = rng.random(500) < 0.9, rng.random(500) < 0.88
    assert accuracy_difference(base, variant, seed=5) == accuracy_difference(base, variant, seed=5)
    assert accuracy_difference(base, variant, seed=5) != accuracy_difference(base, variant, seed=6)


def test_the_accuracy_difference_covers_the_truth_as_often_as_it_says() -> None:
    # Each example is lost with 4 % and won with 2 %: the true difference is -0.02. The number of covering intervals of
    # 400 is binomial with mean about 380 and standard deviation 4.4; the bounds, 92 and 98 %, are about three away.
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(400):
        kind = rng.random(800)
        base, variant = (kind < 0.04) | (kind > 0.1), (kind >= 0.04) & (kind < 0.06) | (kind > 0.1)
        interval = accuracy_difference(base, variant)
        covered += interval.low <= -0.02 <= interval.high
    assert 368 <= covered <= 392


def test_the_accuracy_difference_refuses_other_examples() -> None:
    with pytest.raises(ValueError, match="paired"):
        accuracy_difference(np.array([True, False]), np.array([True]))


def test_speedup_is_formed_inside_each_round() -> None:
    # The machine slows down threefold, for both: every paired ratio is 2; ratios across rounds would go from 2/3 to 6.
    assert speedup([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == Interval(2.0, 2.0, 2.0)


def test_speedup_is_the_median_over_rounds_and_spans_few_rounds_whole() -> None:
    # Five values and their median: all lie on one side of it with a chance of 2/2⁵ = 6.2 %, more than 5 %.
    interval = speedup([2.0, 2.1, 2.2, 2.3, 9.0], [1.0] * 5)
    assert interval == Interval(2.2, 2.0, 9.0)


def test_speedup_narrows_with_rounds() -> None:
    ratios = [2.0, 2.1, 2.2, 2.3, 2.4]
    few, many = speedup(ratios, [1.0] * 5), speedup(ratios * 8, [1.0] * 40)
    assert few.estimate == many.estimate == 2.2
    assert many.half_width < few.half_width


def test_the_interval_of_seven_rounds_ends_between_the_two_outermost() -> None:
    # From lowest to highest holds the median with 1 - 2/2⁷ = 98.44 %, one further in with 1 - 16/2⁷ = 87.5 %; 95 %
    # lies 0.3143 of the way, which Hettmansperger and Sheather weigh as 6 · 0.3143 / (1 + 5 · 0.3143) = 0.7333.
    interval = speedup([float(value) for value in range(1, 8)], [1.0] * 7)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((4, 1.7333, 6.2667), abs=1e-4)
    assert interval.reach == pytest.approx(2.2667 / 4, abs=1e-4)


@pytest.mark.parametrize("rounds", [6, 7, 10, 21])
def test_the_interval_of_a_median_holds_it_in_95_percent_of_experiments(rounds: int) -> None:
    random = np.random.default_rng(5)
    for noise in (random.normal(size=(4000, rounds)), random.exponential(size=(4000, rounds)) - math.log(2)):
        _, low, high = median_interval(noise)
        assert 0.93 <= float(np.mean((low <= 0) & (high >= 0))) <= 0.97


@pytest.mark.parametrize(("noise", "bound"), [(0.03, 0.03), (0.05, 0.05), (0.1, 0.05), (0.1, 0.1)])
def test_stopping_when_the_interval_is_narrow_costs_little_of_its_coverage(noise: float, bound: float) -> None:
    """Rounds of two equal engines, 7 at least and 21 at most, until their ratio is settled."""
    times = np.exp(np.random.default_rng(6).normal(scale=noise, size=(2, 3000, 21)))
    ratios, running = times[0] / times[1], np.ones(3000, dtype=bool)
    held = np.zeros(3000, dtype=bool)
    for rounds in range(7, 22):
        middle, low, high = median_interval(ratios[:, :rounds])
        ends = running & ((np.maximum(high / middle - 1, 1 - low / middle) <= bound) | (rounds == 21))
        held |= ends & (low <= 1) & (high >= 1)
        running &= ~ends
    assert held.mean() >= 0.91


def test_speedup_of_one_round_claims_nothing() -> None:
    assert speedup([2.0], [1.0]) == Interval(2.0, 0.0, math.inf)


@pytest.mark.parametrize(("base", "variant"), [([1.0], [1.0, 2.0]), ([], []), ([1.0, 0.0], [1.0, 1.0])])
def test_speedup_refuses_what_is_no_pair_of_times(base: list[float], variant: list[float]) -> None:
    with pytest.raises(ValueError, match=r"paired|above 0"):
        speedup(base, variant)


def test_intervals_overlap_when_some_value_lies_in_both() -> None:
    assert Interval(1.5, 1.0, 2.0).overlaps(Interval(2.5, 2.0, 3.0))
    assert not Interval(1.5, 1.0, 2.0).overlaps(Interval(2.6, 2.1, 3.0))


def test_holm_multiplies_each_p_value_by_the_tests_that_are_left() -> None:
    # Holm's steps for 0.01, 0.02, 0.03, 0.04: 4 · 0.01, 3 · 0.02, then 2 · 0.03 and 1 · 0.04, which may not fall.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_errs_in_the_family_as_often_as_it_says() -> None:
    # Six variants that are as accurate as their baseline: which of the examples that one alone has right is a fair
    # coin. One or more of them is called different in at most 5 % of 1,000 experiments; uncorrected, in far more.
    rng = np.random.default_rng(5)
    known = {count: [mcnemar(count - won, won) for won in range(count + 1)] for count in range(20, 61)}
    counts = rng.integers(20, 61, size=(1000, 6))
    tests = [[known[int(n)][int(rng.binomial(n, 0.5))] for n in row] for row in counts]
    assert np.mean([min(holm(row)) < 0.05 for row in tests]) <= 0.05
    assert np.mean([min(row) < 0.05 for row in tests]) >= 0.1


def test_students_quantiles_are_those_of_scipy() -> None:
    reference = pytest.importorskip("scipy.stats").t
    for share in (0.5, 0.8, 0.975, 0.995):
        for freedom in (1, 1.3, 2, 4, 30, 871.5, 1e6):
            assert student_quantile(share, freedom) == pytest.approx(reference.ppf(share, freedom), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("share", "freedom"), [(0.4, 3), (1.0, 3), (0.975, 0.5)])
def test_students_quantile_refuses_what_it_is_not_made_for(share: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="needed"):
        student_quantile(share, freedom)


def drawn(rng: np.random.Generator, seeds: int, examples: int, between: float) -> NDArray[np.float64]:
    """Differences of −1, 0 and 1 whose mean is 0 over seeds and examples, in an experiment of so many of each."""
    lean = rng.normal(0, between, seeds)[:, None]
    hard = rng.normal(0, 0.05, examples)[None, :]
    up = np.clip(0.06 + (lean + hard) / 2, 0, 1)
    down = np.clip(0.06 - (lean + hard) / 2, 0, 1)
    found = rng.random((seeds, examples))
    return np.asarray((found < up).astype(float) - (found > 1 - down).astype(float))


@pytest.mark.parametrize("between", [0.0, 0.01])
def test_pooled_intervals_hold_the_truth_as_often_as_they_say(between: float) -> None:
    rng = np.random.default_rng(7)
    held = [pooled(drawn(rng, 3, 800, between)) for _ in range(600)]
    share = np.mean([found.low <= 0 <= found.high for found in held])
    assert 0.93 <= share <= 0.995


def test_seeds_that_differ_widen_the_interval_and_one_seed_tells_of_examples_alone() -> None:
    rng = np.random.default_rng(0)
    same = drawn(rng, 1, 1000, 0.0)
    one = pooled(same)
    repeated = pooled(np.repeat(same, 3, axis=0))
    assert repeated.half_width == pytest.approx(one.half_width, rel=1e-3)
    apart = np.concatenate([same, np.roll(same, 3) - 0.05, np.roll(same, 5) + 0.05])
    assert pooled(apart).half_width > 2 * one.half_width


def test_pooling_refuses_what_is_no_table_of_seeds_and_examples() -> None:
    with pytest.raises(ValueError, match="seeds of two examples"):
        pooled(np.zeros((3, 1)))
