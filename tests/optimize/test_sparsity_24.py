from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.optimize.variants import FAMILIES, exported, made
from toolchain.core.errors import RecipeError
from toolchain.model import graph, two_four
from toolchain.optimize import sparsity_24, static_int8


def sparse(folder: Path) -> list[bool]:
    model = graph.load(folder / "model.onnx")
    return [two_four.is_sparse(matrix.values, matrix.axis) for matrix in two_four.matrices(model)]


def test_the_two_largest_of_every_four_along_the_summed_axis_stay() -> None:
    weight = np.array([[1.0, -5.0], [-3.0, 5.0], [2.0, 5.0], [0.5, 0.0]])
    # Down the first column 3 and 2 are largest; of three equal ones in the second, the first two stay.
    assert two_four.keep(weight, 0).tolist() == [[False, True], [True, True], [True, False], [False, False]]
    assert two_four.is_sparse(weight * two_four.keep(weight, 0), 0)
    assert not two_four.is_sparse(weight, 0)
    assert not two_four.is_sparse(np.zeros((3, 4)), 0)  # three is no multiple of four


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_matrix_becomes_sparse_where_accuracy_may_fall(architecture: str, tmp_path: Path) -> None:
    out, metrics = made(sparsity_24, exported(architecture), tmp_path / "out", max_drop=100)
    assert sparse(exported(architecture)) == [False] * metrics["sparse"]
    assert sparse(out) == [True] * metrics["sparse"]
    assert metrics["dense"] == []
    weights = [m.values.size for m in two_four.matrices(graph.load(out / "model.onnx"))]
    assert metrics["zeros"] == sum(weights) // 2


def test_matrices_that_cost_accuracy_stay_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def accuracy(kind: object, model: object, items: object, threads: int) -> tuple[float, list[float]]:
        count = sum(two_four.is_sparse(m.values, m.axis) for m in two_four.matrices(model))
        seen.append(count)
        return (0.9 if count <= 5 else 0.8), []

    monkeypatch.setattr(sparsity_24, "dev_accuracy", accuracy)
    out, metrics = made(sparsity_24, exported("bert"), tmp_path / "out", max_drop=1)
    assert metrics["sparse"] == 5 == sum(sparse(out))
    assert len(metrics["dense"]) == len(sparse(out)) - 5
    assert (metrics["float_dev_accuracy"], metrics["dev_accuracy"]) == (90.0, 90.0)
    assert seen[0] == 0
    assert len(seen) <= 8  # bisection


def test_zeros_survive_quantization(tmp_path: Path) -> None:
    out, metrics = made(sparsity_24, exported("bert"), tmp_path / "sparse", max_drop=100)
    quantized, _ = made(static_int8, out, tmp_path / "int8", calibration="min_max", calibration_samples=8)
    assert sparse(quantized) == [True] * metrics["sparse"]


def test_an_exclusion_stays_dense_and_has_to_match(tmp_path: Path) -> None:
    first = next(two_four.matrices(graph.load(exported("bert") / "model.onnx"))).nodes[0]
    out, _ = made(sparsity_24, exported("bert"), tmp_path / "out", max_drop=100, exclude=(first,))
    assert sparse(out).count(False) == 1
    with pytest.raises(RecipeError, match="'nowhere' matches no product"):
        made(sparsity_24, exported("bert"), tmp_path / "other", exclude=("nowhere",))
