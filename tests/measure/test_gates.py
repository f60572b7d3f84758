from __future__ import annotations

from toolchain.measure.gates import measurably_faster, never_slower, placement
from toolchain.measure.statistics import Interval


def test_an_engine_whose_interval_holds_one_everywhere_is_not_faster() -> None:
    verdict = never_slower({"batch 1": Interval(1.2, 0.97, 1.4), "batch 32": Interval(0.8, 0.7, 0.9)})
    assert not verdict.passed
    assert verdict.evidence == "batch 1: 1.20x [0.97, 1.40]; batch 32: 0.80x [0.70, 0.90]"


def test_faster_at_one_setting_is_enough_to_be_more_than_size_only() -> None:
    speedups = {"batch 1": Interval(0.9, 0.8, 0.95), "batch 32": Interval(2.0, 1.9, 2.1)}
    assert never_slower(speedups).passed
    assert [measurably_faster(ratio) for ratio in speedups.values()] == [False, True]


def test_a_lower_bound_of_exactly_one_is_not_measurably_faster() -> None:
    assert not measurably_faster(Interval(1.5, 1.0, 2.0))


def test_what_was_never_timed_is_not_faster() -> None:
    verdict = never_slower({})
    assert not verdict.passed
    assert verdict.evidence == "nothing was timed"


def test_nodes_that_fell_back_to_another_provider_fail_placement() -> None:
    verdict = placement({"CUDAExecutionProvider": 118, "CPUExecutionProvider": 2}, "CUDAExecutionProvider")
    assert not verdict.passed
    assert verdict.evidence == (
        "CUDAExecutionProvider was asked for; nodes: 2 on CPUExecutionProvider, 118 on CUDAExecutionProvider"
    )


def test_placement_holds_when_every_node_is_where_it_was_asked_for() -> None:
    assert placement({"CPUExecutionProvider": 120, "CUDAExecutionProvider": 0}, "CPUExecutionProvider").passed


def test_placement_that_nothing_reported_is_not_taken_on_trust() -> None:
    assert not placement({}, "CPUExecutionProvider").passed
