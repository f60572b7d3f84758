from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from toolchain.certainty.noninferiority import judge, score_interval


def pair(lost: int, won: int, total: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A baseline and an engine: so many examples only the one, and so many only the other, has right."""
    place = np.arange(total)
    return place >= won, (place < won) | (place >= won + lost)


def test_an_engine_that_loses_next_to_nothing_is_not_worse() -> None:
    # 4 lost and 4 won of 1,821: the standard error is 0.16 points, so the interval ends near -0.31.
    assert str(judge(*pair(4, 4, 1821), 0.005)) == "yes"


def test_an_engine_is_worse_only_when_all_of_the_interval_is() -> None:
    # 100 lost and 20 won of 1,821: -4.4 points with a standard error of 0.59.
    assert judge(*pair(100, 20, 1821), 0.005).answer == "no"
    # -1.6 points with a standard error of 0.59: worse on these examples, and yet the data leave -0.5 open.
    assert judge(*pair(73, 43, 1821), 0.005).answer == "cannot say"


def test_what_cannot_be_said_names_the_examples_that_would_do() -> None:
    # 18 lost, 18 won: ψ = 0.019769 and d = 0, so n = (1.959964 + 0.841621)² · 0.019769 / 0.005² = 6,207.
    found = judge(*pair(18, 18, 1821), 0.005)
    assert str(found) == "cannot say with 1,821 examples; about 6,300 would do"
    # At the margin itself no number of examples would.
    assert str(judge(*pair(20, 10, 2000), 0.005)) == (
        "cannot say with 2,000 examples; more than 10,000,000 would be needed"
    )


def test_that_two_engines_never_disagreed_proves_little_on_few_examples() -> None:
    # z²(1 - 0.005)/0.005 = 764 examples without a disagreement exclude half a point; 100 do not.
    judged = judge(*pair(0, 0, 100), 0.005)
    assert (judged.answer, judged.examples, judged.needed) == ("cannot say", 100, 770)
    assert judge(*pair(0, 0, 770), 0.005).answer == "yes"


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        judge(*pair(1, 1, 10), margin)


def test_the_score_interval_ends_where_the_score_test_stops_rejecting() -> None:
    # At both ends the statistic is 1.96, with the constrained likelihood maximized by trying 200,000 shares.
    for lost, won, total in ((12, 2, 50), (9, 16, 90), (0, 3, 44), (30, 18, 1821)):
        found = score_interval(lost, won, total)
        assert found.low < found.estimate < found.high
        for end in (found.low, found.high):
            few, many = (lost, won) if end > 0 else (won, lost)  # won - lost = end: shares q and q + |end|
            q = np.linspace(1e-9, (1 - abs(end)) / 2 - 1e-9, 200_001)
            rest = (total - few - many) * np.log(1 - 2 * q - abs(end))
            share = q[np.argmax(few * np.log(q) + many * np.log(q + abs(end)) + rest)]
            deviation = math.sqrt(total * (2 * share + abs(end) - end**2))
            assert abs(won - lost - total * end) / deviation == pytest.approx(1.96, abs=2e-3)


def test_the_score_interval_of_no_disagreement_is_known_in_closed_form() -> None:
    # z²/(n + z²) of n examples.
    assert score_interval(0, 0, 1821).high == pytest.approx(3.841459 / (1821 + 3.841459), rel=1e-6)
    assert score_interval(0, 0, 1821).low == pytest.approx(-3.841459 / (1821 + 3.841459), rel=1e-6)


@pytest.mark.parametrize(("lost", "won", "total"), [(-1, 0, 10), (6, 5, 10), (0, 0, 0)])
def test_counts_of_no_set_of_examples_are_refused(lost: int, won: int, total: int) -> None:
    with pytest.raises(ValueError, match="no counts"):
        score_interval(lost, won, total)


def test_an_engine_at_the_margin_passes_as_seldom_as_it_says() -> None:
    # It is worse by just the margin: 2.5 % of yeses are allowed. 200 verdicts of a share of 2.5 % have a standard
    # deviation of 1.1 %; the bound is three of those above.
    rng = np.random.default_rng(2)
    for psi, total in ((0.02, 1821), (0.06, 872)):
        drawn = rng.multinomial(total, [(psi + 0.005) / 2, (psi - 0.005) / 2, 1 - psi], size=200)
        yes = [judge(*pair(int(lost), int(won), total), 0.005).answer == "yes" for lost, won, _ in drawn]
        assert np.mean(yes) <= 0.025 + 0.033


def test_as_many_examples_as_are_named_settle_it_as_often_as_is_said() -> None:
    # An engine as good as its baseline with 2 % of disagreements: 6,300 examples, and a "yes" in 80 % of experiments;
    # 200 have a standard deviation of 2.8 %.
    rng = np.random.default_rng(3)
    drawn = rng.multinomial(6300, [0.01, 0.01, 0.98], size=200)
    yes = [judge(*pair(int(lost), int(won), 6300), 0.005).answer == "yes" for lost, won, _ in drawn]
    assert 0.71 <= np.mean(yes) <= 0.89
