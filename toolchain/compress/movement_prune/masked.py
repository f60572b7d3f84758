"""Matrices whose mask is learned: scores in training, a mask in the product, and their gradient straight through it."""

from __future__ import annotations

from typing import Any

import torch

from toolchain.compress.shared.criteria import movement
from toolchain.compress.shared.targets import Target


class Masked(torch.nn.Module):  # type: ignore[misc]
    """Parametrization ``W ∘ expand(mask)`` of a matrix with a score for each of its units.

    Attributes:
        target: The matrix, and its units.
        scores: Learned, of the units' shape.
        mask: What is kept now: 0 or 1, of the units' shape.
    """

    def __init__(self, target: Target, weight: torch.Tensor) -> None:
        super().__init__()
        self.target = target
        units = target.pool(weight.detach())
        self.scores = torch.nn.Parameter(torch.zeros_like(units))
        # A parameter that nothing trains: it is saved with the state of the training, and so resumed.
        self.mask = torch.nn.Parameter(torch.ones_like(units), requires_grad=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The masked matrix, ``[out, in]``."""
        masked: torch.Tensor = _Straight.apply(weight, self.scores, self.mask, self.target)
        return masked


class _Straight(torch.autograd.Function):  # type: ignore[misc]
    """Masks by units; the scores' gradient is the one that the mask would have, were it real numbers."""

    @staticmethod
    def forward(ctx: Any, weight: Any, scores: Any, mask: Any, target: Target) -> Any:
        ctx.save_for_backward(weight, mask)
        ctx.target = target
        return weight * target.expand(mask, weight.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        weight, mask = ctx.saved_tensors
        to_weight = gradient * ctx.target.expand(mask, weight.shape)
        return to_weight, -movement(weight, gradient, ctx.target.pool), None, None
