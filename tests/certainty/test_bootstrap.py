from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from toolchain.certainty import bootstrap
from toolchain.certainty.ranks import Scored, order, resampled


def mean(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(counts @ scores[:, 0] / counts.sum(axis=1))


def spread(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The standard deviation: a metric that is no mean."""
    return np.asarray(np.sqrt(mean(scores**2, counts) - mean(scores, counts) ** 2))


def values(count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, 1))


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    scores = (np.arange(400) % 2)[:, None] * 1.0
    found = bootstrap.interval(mean, scores)
    assert found.estimate == 0.5
    # 1.96 · √(0.25 / 400) = 0.049
    assert [found.low, found.high] == pytest.approx([0.451, 0.549], abs=0.004)
    assert found == bootstrap.interval(mean, scores)  # seeded


def test_a_metric_is_resampled_as_a_whole() -> None:
    found = bootstrap.interval(spread, values(500))
    # The standard error of a normal sample's standard deviation is about 1 / √(2n) = 0.032.
    assert found.half_width == pytest.approx(1.96 * 0.0316, rel=0.2)


def test_two_engines_are_drawn_together() -> None:
    base = values(300)
    same = bootstrap.difference(mean, base, base)
    assert (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)
    shifted = bootstrap.difference(mean, base, base + 0.1)
    assert [shifted.low, shifted.high] == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match="paired examples are needed"):
        bootstrap.difference(mean, base, base[:-1])


def test_examples_that_hang_together_are_drawn_together() -> None:
    alone, groups = values(100), np.repeat(np.arange(100), 4)
    together = bootstrap.interval(mean, np.repeat(alone, 4, axis=0), groups)
    assert together.half_width == pytest.approx(bootstrap.interval(mean, alone).half_width)
    assert bootstrap.interval(mean, np.repeat(alone, 4, axis=0)).half_width < 0.6 * together.half_width


@pytest.mark.parametrize(("shift", "answer"), [(0.0, "yes"), (-0.002, "yes"), (-0.2, "no"), (-0.01, "cannot say")])
def test_a_margin_is_judged_by_the_interval_of_the_difference(shift: float, answer: str) -> None:
    base = values(400)
    noise = 0.0 if shift in (0.0, -0.002) else 0.1
    verdict = bootstrap.judge(mean, base, base + shift + noise * values(400, seed=1), 0.01)
    assert verdict.answer == answer
    assert (verdict.needed is not None) == (answer == "cannot say")
    assert verdict.lost is verdict.won is None
    if verdict.needed:
        assert verdict.needed > 400


def test_examples_contribute_what_a_mean_is_of_and_pseudo_values_of_other_metrics() -> None:
    scores = values(200)
    assert bootstrap.contributions(mean, scores) == pytest.approx(scores[:, 0])
    parts = bootstrap.contributions(spread, scores)
    assert parts.mean() == pytest.approx(bootstrap.whole(spread, scores), abs=0.02)
    # The spread of pseudo-values over √n is the jackknife's standard error.
    assert parts.std(ddof=1) / np.sqrt(200) == pytest.approx(
        bootstrap.interval(spread, scores).half_width / 1.96, rel=0.2
    )


def test_engines_are_ranked_by_resampling_their_metric() -> None:
    base, flat = values(400), np.ones(5)
    near, far = base + 0.02 * values(400, seed=1), base + 1.0
    engines = [Scored(scores, 1.0, flat, mean) for scores in (far, base, near)]
    found = order(engines, (1.0, 0.0, 0.0))
    assert found.ranks[0] == (1, 1)
    assert found.ahead[0].tolist() == [False, True, True]
    assert found.tied(1, 2)
    assert engines[0].parts[0] == pytest.approx(100 * float(far.mean()))
    assert resampled(engines, (1.0, 0.0, 0.0)).shape == (bootstrap.RESAMPLES, 3)
