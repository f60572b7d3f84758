from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from toolchain.compress.shared import svd


def matrix(rows: int, columns: int) -> Any:
    return torch.from_numpy(np.random.default_rng(rows + columns).standard_normal((rows, columns)))


SIZES = pytest.mark.parametrize("size", [(12, 20), (16, 16), (20, 12)], ids=["wide", "square", "tall"])


@SIZES
def test_without_weights_the_factors_lose_the_smallest_singular_values(size: tuple[int, int]) -> None:
    weight = matrix(*size)
    found = svd.decompose(weight)
    values = np.linalg.svd(weight.numpy(), compute_uv=False)
    for rank in (1, 5, 11):
        left, right = found.factors(rank)
        assert (left.shape, right.shape) == ((size[0], rank), (rank, size[1]))
        lost = np.square((left.double() @ right.double() - weight).numpy()).sum()
        assert lost == pytest.approx(np.square(values[rank:]).sum(), rel=1e-5)
        assert found.kept[rank - 1] == pytest.approx(np.square(values[:rank]).sum() / np.square(values).sum())
    left, right = found.factors(len(values))
    assert np.abs((left @ right - weight).numpy()).max() < 1e-5
    assert left.norm(dim=0).numpy() == pytest.approx(right.norm(dim=1).numpy(), rel=1e-4)


@SIZES
def test_with_a_gram_matrix_what_is_computed_is_as_near_as_can_be(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svd, "DAMPING", 1e-9)
    weight, scale = matrix(*size), torch.logspace(1, -2, size[1], dtype=torch.float64)
    inputs = matrix(200, size[1]) * scale
    outputs = inputs @ weight.T
    seen = inputs if size[0] > size[1] else outputs
    best = np.square(np.linalg.svd(outputs.numpy(), compute_uv=False))  # Eckart and Young, of the outputs
    plain, found = svd.decompose(weight), svd.decompose(weight, gram=seen.T @ seen)
    for rank in (2, 6):
        lost = [
            float((inputs @ (item.factors(rank)[0] @ item.factors(rank)[1] - weight).T).square().sum())
            for item in (found, plain)
        ]
        assert lost[0] == pytest.approx(best[rank:].sum(), rel=1e-4)
        assert lost[0] < 0.3 * lost[1]


def test_damping_keeps_a_matrix_whose_inputs_were_hardly_seen() -> None:
    weight, inputs = matrix(20, 12), torch.zeros(5, 12, dtype=torch.float64)
    inputs[:, 0] = 1.0  # one input of twelve is ever used
    found = svd.decompose(weight, gram=inputs.T @ inputs)
    left, right = found.factors(12)
    assert np.abs((left @ right - weight).numpy()).max() < 1e-4
    left, right = found.factors(6)
    assert (left @ right - weight)[:, 0].norm() < 1e-2 * weight[:, 0].norm()  # the used one comes first


@SIZES
def test_rows_that_weigh_more_are_nearer(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svd, "DAMPING", 1e-9)
    weight, rows = matrix(*size), torch.logspace(2, -2, size[0], dtype=torch.float64)
    best = np.square(np.linalg.svd((weight * rows[:, None].sqrt()).numpy(), compute_uv=False))
    left, right = svd.decompose(weight, rows=rows).factors(5)
    lost = float(((left @ right - weight).square().sum(dim=1) * rows).sum())
    assert lost == pytest.approx(best[5:].sum(), rel=1e-4)


def test_a_matrix_of_zeros_and_rows_without_weight_have_factors() -> None:
    for found in (svd.decompose(torch.zeros(6, 9)), svd.decompose(matrix(9, 6), rows=torch.zeros(9))):
        left, right = found.factors(2)
        assert torch.isfinite(left).all()
        assert torch.isfinite(right).all()


def test_parameters_are_shared_out_as_trying_everything_would() -> None:
    curves = {"a": [0.5, 0.7, 0.85, 0.9], "b": [0.3, 0.5, 0.6, 0.7], "c": [0.9, 0.95, 0.97, 0.99]}
    given = {}
    for name, curve in curves.items():
        energies = np.diff([0, *curve, *([1.0] * 6)])
        given[name] = svd.choices((10, 10), 1, svd.Decomposition(None, None, energies))
    assert all(list(item.ranks) == [1, 2, 3, 4, 0] for item in given.values())  # 5 · 20 is 10 · 10
    assert list(given["a"].costs) == [20, 40, 60, 80, 100]
    for budget in (60, 100, 160, 220, 300):
        found = svd.share_out(given, budget)
        index = {name: list(given[name].ranks).index(rank) for name, rank in found.items()}
        assert sum(int(given[name].costs[i]) for name, i in index.items()) <= budget
        best = max(
            sum(float(item.kept[i]) for item, i in zip(given.values(), tried, strict=True))
            for tried in itertools.product(range(5), repeat=3)
            if sum(int(item.costs[i]) for item, i in zip(given.values(), tried, strict=True)) <= budget
        )
        kept = sum(float(given[name].kept[i]) for name, i in index.items())
        assert kept >= best - 0.051  # one step of the least worth, that a greedy choice may miss
    assert svd.share_out(given, 300) == {"a": 0, "b": 0, "c": 0}
    assert svd.share_out(given, 60) == {"a": 1, "b": 1, "c": 1}


def test_what_the_loss_feels_more_gets_more_parameters() -> None:
    """Three matrices of the same spectrum."""
    weight = matrix(32, 32)
    found = {name: svd.decompose(weight, felt=felt) for name, felt in (("a", 1.0), ("b", 9.0), ("c", 1e-9))}
    assert found["b"].importance == pytest.approx(9 * found["a"].importance)
    shared = svd.share_out({name: svd.choices((32, 32), 1, item) for name, item in found.items()}, 1.2 * 32 * 32)
    assert shared["c"] == 1
    assert shared["b"] == 0 or shared["b"] > shared["a"] + 3
    assert svd.decompose(weight).importance == 1.0
