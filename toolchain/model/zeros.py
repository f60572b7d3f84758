"""Zeros that stay zeros: the mask of a pruned encoder, kept while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolchain.core.errors import require
from toolchain.core.log import logger


def standing(model: Any) -> dict[str, Any]:
    """Which weights are not zero, of every matrix of an encoder's linear layers that has zeros; others are left out.

    A weight that was trained is never exactly zero, so zeros are a mask that pruning has put on.
    """
    torch = require("torch", "torch")
    linears = [name for name, m in model.base_model.named_modules() if isinstance(m, torch.nn.Linear)]
    found = {}
    for name, parameter in model.base_model.named_parameters():
        if parameter.ndim == 2 and any(name.startswith(f"{linear}.") for linear in linears):
            kept = parameter.detach() != 0
            if not bool(kept.all()):
                found[name] = kept
    return found


def warn_of_loss(model: Any, what: str) -> None:
    """Says so when a model has zeros, and what is done to it computes weights anew."""
    if standing(model):
        logger.warning("    %s computes weights anew: zeros of an earlier pruning are filled; set zeros after it", what)


def keeping(model: Any, kept: dict[str, Any]) -> Callable[[], None]:
    """A function that makes what :func:`standing` found to be zero, zero again."""
    torch = require("torch", "torch")
    named = dict(model.base_model.named_parameters())

    def put_back() -> None:
        with torch.no_grad():
            for name, mask in kept.items():
                named[name].mul_(mask.to(named[name].device))

    return put_back
