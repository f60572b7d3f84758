from __future__ import annotations

import itertools

import numpy as np
import pytest

from toolchain.certainty.pareto import beats, front, hypervolume


def test_one_beats_another_when_it_is_nowhere_worse_and_somewhere_better() -> None:
    assert beats((2, 1, 1), (1, 1, 1))
    assert not beats((2, 1, 0), (1, 1, 1))
    assert not beats((1, 1, 1), (1, 1, 1))


def test_the_front_is_what_nobody_beats_and_keeps_equals() -> None:
    assert front([(3, 1), (1, 3), (2, 2), (1, 1), (2, 2), (2, 1)]) == [0, 1, 2, 4]


def test_the_hypervolume_of_boxes_is_that_of_their_union() -> None:
    assert hypervolume([(2, 3, 4)], (0, 0, 0)) == 24
    assert hypervolume([(2, 3, 4)], (1, 1, 1)) == 6
    # Two boxes of 8 and 9 that share 1 × 2 × 1... the second reaches (1, 3, 3): in common 1 · 2 · 2.
    assert hypervolume([(2, 2, 2), (1, 3, 3)], (0, 0, 0)) == 8 + 9 - 4
    assert hypervolume([(2, 2, 2), (1, 1, 1), (2, 2, 2)], (0, 0, 0)) == 8
    assert hypervolume([(2, 2, 0), (-1, 5, 5)], (0, 0, 0)) == 0
    assert hypervolume([], (0, 0, 0)) == 0


def test_the_hypervolume_equals_a_count_of_cells() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        points = [tuple(map(float, point)) for point in rng.integers(1, 7, size=(6, 3))]
        cells = itertools.product(range(6), repeat=3)
        inside = sum(any(all(c < p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells)
        assert hypervolume(points, (0.0, 0.0, 0.0)) == pytest.approx(inside)
