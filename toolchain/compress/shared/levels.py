"""Levels that weights are rounded to: equal steps, a table by k-means, and powers of a base."""

from __future__ import annotations

from typing import Any

from toolchain.core.errors import require

#: Parts of the step that reaches the largest weight, which are tried as the first step.
_TRIED = 40

#: Rounds of k-means.
_ROUNDS = 25


def least_squares(weight: Any, form: Any) -> Any:
    """The steps of least squared error, ``[rows]`` or ``[1]``.

    Args:
        weight: ``[rows, columns]``.
        form: Its format.
    """
    torch = require("torch", "torch")
    rows = weight if form.channels else weight.reshape(1, -1)
    most = 2 ** (form.bits - 1) - 1
    largest = rows.abs().amax(1, keepdim=True).clamp_min(1e-8) / most
    best, least = largest, torch.full_like(largest, float("inf"))
    for part in range(_TRIED, 0, -1):
        step = largest * part / _TRIED
        error = (rows - (rows / step).round().clamp(-most, most) * step).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, step, best), torch.minimum(error, least)
    return best.flatten()


def codebook(weight: Any, form: Any) -> Any:
    """The k-means of a matrix whose channels are scaled to 1, without the one that is nearest to 0: ``[entries]``."""
    torch = require("torch", "torch")
    rows = weight if form.channels else weight.reshape(1, -1)
    values = (rows / rows.abs().amax(1, keepdim=True).clamp_min(1e-8)).flatten().sort().values
    count = form.entries + 1
    centres = values[torch.linspace(0, len(values) - 1, count).long()]
    summed = torch.cat([torch.zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    for _ in range(_ROUNDS):
        edges = torch.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        edges = torch.cat([torch.zeros(1, dtype=edges.dtype), edges, torch.tensor([len(values)])])
        sizes = edges[1:] - edges[:-1]
        means = ((summed[edges[1:]] - summed[edges[:-1]]) / sizes.clamp_min(1)).float()
        centres = torch.where(sizes > 0, means, centres)
    return torch.cat([centres[: (least := int(centres.abs().argmin()))], centres[least + 1 :]])


#: Bits up to which levels are integers.
_INTEGER_BITS = 4


def top_integer(base: float, bits: int) -> int:
    """The integer that the largest level is; 0 where levels are no integers of 8 bits."""
    widest = base ** (2 ** (bits - 1) - 2)
    if bits > _INTEGER_BITS or widest > 127:
        return 0
    return round(widest) if float(base).is_integer() else 127


def powers(base: float, bits: int) -> Any:
    """The levels beside 0, ``[2^bits − 2]``, from −1 to 1."""
    torch = require("torch", "torch")
    positive = base ** -torch.arange(2 ** (bits - 1) - 1, dtype=torch.float64)
    return torch.cat([-positive, positive.flip(0)]).float()
