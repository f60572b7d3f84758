"""Criteria of importance: what a weight, or a block of weights, is worth. Plain callables, shared by all structures.

A criterion is called with a matrix ``W``, the gradient ``G`` of the loss to it (None where it needs none) and ``pool``,
which sums a matrix over each unit of the structure: over single weights, blocks, heads, neurons. It gives a score for
each unit; those with the lowest go first. Scores of a gradient are averaged over examples or steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolchain.core.errors import require

#: Sums a matrix ``[out, in]`` over the units of a structure.
Pool = Callable[[Any], Any]
Criterion = Callable[[Any, Any, Pool], Any]


def magnitude(weight: Any, gradient: Any, pool: Pool) -> Any:
    """Root mean square of a unit's weights, ``√(Σ w² / n)``: |w| for a single one (Han et al., arXiv 1506.02626)."""
    torch = require("torch", "torch")
    return (pool(weight**2) / pool(torch.ones_like(weight))).sqrt()


def taylor(weight: Any, gradient: Any, pool: Pool) -> Any:
    """First-order change of the loss when a unit becomes zero, ``|Σ g·w|``.

    Molchanov et al., arXiv 1611.06440; for heads it is the gradient to a head's mask, Michel et al., arXiv 1905.10650.
    """
    return pool(weight * gradient).abs()


def fisher(weight: Any, gradient: Any, pool: Pool) -> Any:
    """Second-order change of the loss when a unit becomes zero, ``½ (Σ g·w)²``.

    The Hessian of Optimal Brain Damage and Surgeon with the empirical Fisher information in its place, ``H ≈ E[g gᵀ]``;
    the first-order term is taken to vanish at a trained model (Kwon et al., arXiv 2204.09656).
    """
    return pool(weight * gradient) ** 2 / 2


def movement(weight: Any, gradient: Any, pool: Pool) -> Any:
    """How far a step moves a unit away from zero, ``−Σ g·w`` (Sanh et al., arXiv 2005.07683)."""
    return -pool(weight * gradient)


#: Criteria that need the loss's gradient.
GRADIENT: frozenset[Criterion] = frozenset({taylor, fisher, movement})

#: Criteria whose scores estimate one thing in every layer, the loss, so that layers may be compared with each other.
COMPARABLE: frozenset[Criterion] = frozenset({taylor, fisher, movement})
