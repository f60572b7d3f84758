"""The best two thin factors in a matrix's place, and how ranks are shared out among matrices.

For a matrix ``W [out, in]`` these are the factors ``U [out, r]`` and ``V [r, in]`` that minimize ``‖D (W − U V) S‖_F``,
where ``D = diag(√rows)`` weighs the outputs and ``S = √G``, with the Gram matrix ``G = XᵀX`` of the inputs, weighs what
the matrix is multiplied with, because ``‖E S‖_F = ‖X Eᵀ‖_F``. With ``D W S = P Σ Qᵀ`` they are (Eckart and Young, 1936)

- for ``out ≤ in``: ``U = D⁻¹ P_r`` and ``V = P_rᵀ D W``, where P are eigenvectors of ``D W G Wᵀ D``; neither S nor its
  inverse is needed, and ``W G Wᵀ`` is the Gram matrix of the outputs without the bias;
- for ``out > in``: ``U = W S Q_r`` and ``V = Q_rᵀ S⁻¹``, where Q are eigenvectors of ``S Wᵀ D² W S``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core.errors import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Share of the mean weight that every direction and every row has: calibration has not seen all that there is.
DAMPING = 1e-3


@dataclass(frozen=True)
class Decomposition:
    """A matrix as a sum of products of a column and a row, the heaviest first: all of them together are the matrix.

    Attributes:
        left: ``[out, k]`` fp32, with k the smaller side of the matrix; each column as long as its row in ``right``.
        right: ``[k, in]`` fp32.
        energies: ``[k]`` float64: squared singular values of the weighted matrix, falling.
        importance: What the loss feels when all of the energy is lost; 1 where that is not known.
        mean: ``[in]`` fp32: the mean input, for which the bias makes good; or None.
    """

    left: Any
    right: Any
    energies: NDArray[np.float64]
    importance: float = 1.0
    mean: Any = None

    def factors(self, rank: int) -> tuple[Any, Any]:
        """U ``[out, rank]`` and V ``[rank, in]``."""
        return self.left[:, :rank], self.right[:rank]

    def shift(self, rank: int) -> Any:
        """What the bias gains, ``[out]``: what the products that are left out make of the mean input."""
        return 0.0 if self.mean is None else self.left[:, rank:] @ (self.right[rank:] @ self.mean)

    @property
    def kept(self) -> NDArray[np.float64]:
        """Part of the energy that the first 1, 2, … k products hold, ``[k]``."""
        summed = np.cumsum(self.energies)
        part: NDArray[np.float64] = summed / max(float(summed[-1]), 1e-300)
        return part


def decompose(
    weight: Any, *, rows: Any = None, gram: Any = None, mean: Any = None, felt: float | None = None
) -> Decomposition:
    """Decomposes a matrix for the weights that it is given; without any, this is its SVD.

    Args:
        weight: ``[out, in]``.
        rows: Weight of the squared error of each output, ``[out]``, none negative.
        gram: For ``out > in`` the Gram matrix of the inputs, ``[in, in]``; otherwise that of the outputs without the
            bias, ``[out, out]``.
        mean: Mean input, ``[in]``, where the Gram matrix is of inputs less their mean.
        felt: What the loss feels of a unit of energy that is lost, in the same unit for all matrices; None: not known.
    """
    torch = require("torch", "torch")
    matrix = weight.detach().double()
    scale = torch.ones(len(matrix), dtype=torch.float64) if rows is None else _damped(rows.double()).sqrt()
    if matrix.shape[0] > matrix.shape[1]:
        square = matrix.T @ (matrix * scale[:, None] ** 2)
        if gram is None:
            energies, basis = _eigenvectors(square)
            left, right = matrix @ basis, basis.T
        else:
            root, inverse = _roots(gram, matrix)
            energies, basis = _eigenvectors(root @ square @ root)
            left, right = matrix @ (root @ basis), basis.T @ inverse
    else:
        square = matrix @ matrix.T
        if gram is not None:
            square = gram + DAMPING * torch.trace(gram) / torch.trace(square) * square
        energies, basis = _eigenvectors(scale[:, None] * square * scale)
        left, right = basis / scale[:, None], basis.T @ (matrix * scale[:, None])
    tiny = torch.finfo(torch.float32).tiny
    balance = (right.norm(dim=1).clamp_min(tiny) / left.norm(dim=0).clamp_min(tiny)).sqrt()
    return Decomposition(
        left=(left * balance).float(),
        right=(right / balance[:, None]).float(),
        energies=energies.numpy(),
        importance=1.0 if felt is None else felt * float(energies.sum()),
        mean=None if mean is None else mean.float(),
    )


def _damped(rows: Any) -> Any:
    """Row weights of which none is zero."""
    mean = rows.mean()
    return rows + DAMPING * mean if mean > 0 else rows + 1.0


def _eigenvectors(square: Any) -> tuple[Any, Any]:
    """Eigenvalues of a symmetric matrix, falling and not below 0, and their vectors in columns."""
    torch = require("torch", "torch")
    values, vectors = torch.linalg.eigh((square + square.T) / 2)
    return values.flip(0).clamp_min(0.0), vectors.flip(1)


def _roots(gram: Any, matrix: Any) -> tuple[Any, Any]:
    """Square root of a damped Gram matrix, and its inverse; the damping is what the matrix makes of its inputs."""
    torch = require("torch", "torch")
    seen = float((gram * (matrix.T @ matrix)).sum() / matrix.square().sum())
    values, vectors = _eigenvectors(gram + DAMPING * (seen or 1.0) * torch.eye(len(gram), dtype=torch.float64))
    roots = values.sqrt()
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def pays(shape: tuple[int, int], rank: int) -> bool:
    """Whether two factors of this rank are smaller than the matrix ``[out, in]``."""
    return rank * sum(shape) < shape[0] * shape[1]


def rounded(rank: int, multiple: int) -> int:
    """The multiple nearest to a rank, and not zero."""
    return max(multiple, (rank + multiple // 2) // multiple * multiple)


@dataclass(frozen=True)
class Choices:
    """What a matrix may be replaced with, by rising cost; rank 0, the last, is the matrix itself.

    Attributes:
        ranks: ``[n]``.
        costs: Parameters of each, ``[n]``.
        kept: Part of the energy that each keeps, ``[n]``.
        importance: What all of the energy is worth beside another matrix's.
    """

    ranks: NDArray[np.int64]
    costs: NDArray[np.int64]
    kept: NDArray[np.float64]
    importance: float = 1.0


def choices(shape: tuple[int, int], multiple: int, found: Decomposition | None = None) -> Choices:
    """The ranks that a matrix may have.

    Args:
        shape: ``[out, in]``.
        multiple: Ranks are multiples of it.
        found: The matrix decomposed; where only costs matter, it may be left out.
    """
    ranks = np.array([rank for rank in range(multiple, min(shape), multiple) if pays(shape, rank)] + [0])
    costs = np.append(ranks[:-1] * sum(shape), shape[0] * shape[1])
    if found is None:
        return Choices(ranks, costs, np.zeros(len(ranks)))
    return Choices(ranks, costs, np.append(found.kept[ranks[:-1] - 1], 1.0), found.importance)


def enough(given: Choices, energy: float) -> int:
    """The least rank that keeps so much energy; 0 where only the whole matrix does."""
    return int(given.ranks[np.argmax(given.kept >= energy)])


def share_out(given: Mapping[str, Choices], budget: float) -> dict[str, int]:
    """Ranks that keep the most for so many parameters: the step that keeps the most for its cost comes first.

    A step may be several ranks long: the last one, to the whole matrix, keeps more for its cost than those before it.

    Args:
        given: What each matrix may be replaced with.
        budget: Parameters of all together; at least the least that is possible.

    Returns:
        A rank for each; 0 leaves it whole.
    """
    at = dict.fromkeys(given, 0)
    left = budget - sum(int(item.costs[0]) for item in given.values())
    steps = {name: _best_step(item, 0, left) for name, item in given.items()}
    while steps:
        name = max(steps, key=lambda name: steps[name][0])
        worth, to = steps[name]
        cost = int(given[name].costs[to] - given[name].costs[at[name]])
        if worth < 0:
            del steps[name]
            continue
        if cost <= left:
            at[name], left = to, left - cost
        steps[name] = _best_step(given[name], at[name], left)
    return {name: int(given[name].ranks[index]) for name, index in at.items()}


def _best_step(item: Choices, at: int, most: float) -> tuple[float, int]:
    """What each parameter keeps in the best step that costs no more than this, and its end; -1: there is none."""
    costs = item.costs[at + 1 :] - item.costs[at]
    fitting = int(np.searchsorted(costs, most, side="right"))
    if fitting == 0:
        return -1.0, at
    worth = item.importance * (item.kept[at + 1 : at + 1 + fitting] - item.kept[at]) / costs[:fitting]
    best = int(np.argmax(worth))
    return float(worth[best]), at + 1 + best
