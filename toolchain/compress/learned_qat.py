"""Learned quantization in training: steps, or the levels themselves, are trained with the weights.

``levels: uniform`` trains the step of every channel and of every activation (learned step size quantization, LSQ, Esser
et al., arXiv 1902.08153): ``∂ŵ/∂s = round(w/s) − w/s`` inside the range and its end outside of it. Steps begin where
the squared error of the weights is least. ``levels: codebook`` trains a table of levels for each matrix, which begins
as the k-means of its weights (deep compression, Han et al., arXiv 1510.00149): a level's gradient is the sum of those
of its weights. Levels are rounded to 1/127 of the largest, so that int8 kernels multiply them; above 6 bits equal
steps lie denser than that, and are taken instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.compress.shared import qat
from toolchain.core.errors import require
from toolchain.core.stage import Context, Gt, Le, Metrics

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")

fits, exports = qat.fits, qat.exports

#: Parts of the step that reaches the largest weight, which are tried as the first step.
_TRIED = 40

#: Bits up to which a codebook is denser than equal steps where weights are dense.
CODEBOOK_BITS = 6

#: Rounds of k-means.
_ROUNDS = 25


@dataclass(frozen=True, kw_only=True)
class Config(qat.QatConfig):
    """Settings of learned quantization in training.

    Attributes:
        levels: ``uniform``: steps are trained; ``codebook``: levels are, up to 6 bits.
        step_learning_rate: Peak learning rate of the logarithms of steps, and of levels.
    """

    levels: Literal["uniform", "codebook"] = "uniform"
    step_learning_rate: Annotated[float, Gt(0), Le(1)] = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = [bits for bits in (self.bits, self.embedding_bits, *self.bits_by_group.values()) if bits]
        if self.levels == "codebook" and min(widths) > CODEBOOK_BITS:
            raise ValueError(
                f"levels: codebook: a codebook has {CODEBOOK_BITS} bits or fewer, and {min(widths)} are asked for; "
                "set bits, or bits_by_group, or levels: uniform"
            )


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Quantizes and trains a checkpoint.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and the folder whose state is resumed from.

    Returns:
        ``bits`` by group, ``sqnr_db`` after and before, parameters, and what the training loop reports.
    """
    from toolchain.model.quantized import WeightFormat

    def form(bits: int) -> Any:
        levels = "table" if config.levels == "codebook" and bits <= CODEBOOK_BITS else "uniform"
        return WeightFormat(bits=bits, levels=levels, channels=config.per_channel, learned=True)

    rates = {"log_step": config.step_learning_rate, "levels": config.step_learning_rate}
    return qat.train(source, out, config, context, form, codebook, least_squares, rates, learned=True)


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
