from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.core.errors import EngineError
from toolchain.engines.shared.batching import Batching, padding_waste, plan_batches, read_batching

LENGTHS = st.lists(st.integers(1, 60), max_size=60)
COSTS = st.builds(
    Batching,
    call=st.floats(0.5, 500),
    attention=st.floats(20, 5000),
    token_budget=st.integers(1, 2000),
)


def total(lengths: list[int], batches: list[list[int]], batching: Batching) -> float:
    return sum(batching.cost(len(batch), max(lengths[index] for index in batch)) for batch in batches)


def allowed(lengths: list[int], batch: list[int], batch_size: int, batching: Batching) -> bool:
    cells = len(batch) * max(lengths[index] for index in batch)
    return len(batch) == 1 or (len(batch) <= batch_size and cells <= batching.token_budget)


def partitions(items: list[int]) -> Any:
    """Every way to split items into groups."""
    if not items:
        yield []
        return
    first, *rest = items
    for size in range(len(rest) + 1):
        for chosen in itertools.combinations(rest, size):
            left = [item for item in rest if item not in chosen]
            for others in partitions(left):
                yield [[first, *chosen], *others]


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 40), COSTS, st.integers(1, 5))
def test_every_example_is_in_one_batch_and_every_batch_within_the_limits(
    lengths: list[int], batch_size: int, batching: Batching, concurrency: int
) -> None:
    batches = plan_batches(lengths, batch_size, batching, concurrency)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(allowed(lengths, batch, batch_size, batching) for batch in batches)
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(lengths[batch[0]] == peak for batch, peak in zip(batches, longest, strict=True))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.integers(1, 7), COSTS)
def test_no_split_of_all_that_are_allowed_costs_less(lengths: list[int], batch_size: int, batching: Batching) -> None:
    found = total(lengths, plan_batches(lengths, batch_size, batching), batching)
    every = [
        total(lengths, split, batching)
        for split in partitions(list(range(len(lengths))))
        if all(allowed(lengths, batch, batch_size, batching) for batch in split)
    ]
    assert found == pytest.approx(min(every))


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 40), COSTS)
def test_it_costs_what_trying_every_cut_of_the_sorted_examples_finds(
    lengths: list[int], batch_size: int, batching: Batching
) -> None:
    ordered = sorted(lengths, reverse=True)
    best = [0.0]
    for end in range(1, len(ordered) + 1):
        starts = [s for s in range(end) if allowed(ordered, list(range(s, end)), batch_size, batching)]
        best.append(min(best[start] + batching.cost(end - start, ordered[start]) for start in starts))
    assert total(lengths, plan_batches(lengths, batch_size, batching), batching) == pytest.approx(best[-1])


def test_a_cheap_call_splits_every_length_apart_and_a_dear_one_none() -> None:
    lengths = [5, 9, 5, 30, 9, 5]
    assert plan_batches(lengths, 8, Batching(call=0.1)) == [[3], [1, 4], [0, 2, 5]]
    assert [len(batch) for batch in plan_batches(lengths, 8, Batching(call=10_000))] == [6]


def test_a_row_that_is_over_the_budget_alone_is_a_batch_of_its_own() -> None:
    assert plan_batches([50, 7, 50], 8, Batching(token_budget=40)) == [[0], [2], [1]]


def test_a_request_of_real_lengths_is_padded_little() -> None:
    # Lengths of 32 SST-2 sentences in a row; padded to the longest of them, half of the cells are padding.
    lengths = [13, 31, 24, 9, 28, 41, 6, 19, 22, 35, 17, 12, 27, 30, 8, 45, 21, 25, 14, 33, 11, 18, 29, 38, 7, 23]
    lengths += [16, 26, 20, 10, 36, 15]
    assert padding_waste(lengths, [list(range(32))]) == pytest.approx(0.507, abs=0.001)
    assert padding_waste(lengths, plan_batches(lengths, 32, Batching())) < 0.16


def end(lengths: list[int], batches: list[list[int]], batching: Batching, streams: int) -> float:
    """When the last of several streams ends that take the batches that cost most first."""
    ends = [0.0] * streams
    for cost in sorted((batching.cost(len(batch), lengths[batch[0]]) for batch in batches), reverse=True):
        ends[ends.index(min(ends))] += cost
    return max(ends)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 40), COSTS, st.integers(2, 5))
def test_several_at_a_time_never_end_later_than_the_split_that_costs_least(
    lengths: list[int], batch_size: int, batching: Batching, streams: int
) -> None:
    split = plan_batches(lengths, batch_size, batching, streams)
    cheapest = plan_batches(lengths, batch_size, batching)
    assert end(lengths, split, batching, streams) <= end(lengths, cheapest, batching, streams)


def test_streams_end_together_where_the_cheapest_split_leaves_one_idle() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 32).tolist()
    dear = Batching(call=1000)
    assert len(plan_batches(lengths, 32, dear)) == 1
    halves = plan_batches(lengths, 32, dear, 2)
    assert len(halves) == 2
    costs = [dear.cost(len(batch), lengths[batch[0]]) for batch in halves]
    assert max(costs) < 0.65 * dear.cost(32, max(lengths))  # of all in one batch


def test_nothing_makes_no_batches() -> None:
    assert plan_batches([], 32, Batching()) == []
    assert padding_waste([], []) == 0


def test_what_an_engine_file_says_is_read_and_what_it_leaves_out_is_the_default() -> None:
    assert read_batching({"batching": {"call": 8}}, "engine.json") == Batching(call=8)
    assert read_batching({}, "engine.json") == Batching()
    assert read_batching({"batching": Batching(call=3.5, token_budget=64).record()}, "x").token_budget == 64


@pytest.mark.parametrize("value", [{"call": 0}, {"call": "8"}, {"call": True}, {"calls": 8}, [], {"attention": -1.0}])
def test_a_value_that_is_not_valid_is_named(value: Any) -> None:
    with pytest.raises(EngineError, match=r"engine\.json: batching"):
        read_batching({"batching": value}, "engine.json")
