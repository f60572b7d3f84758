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

from toolchain.compress.shared import levels, qat
from toolchain.core.stage import Context, Gt, Le, Metrics

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "quantized"

fits, exports = qat.fits, qat.exports


#: Bits up to which a codebook is denser than equal steps where weights are dense.
_CODEBOOK_BITS = 6


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
        if self.levels == "codebook" and min(widths) > _CODEBOOK_BITS:
            raise ValueError(
                f"levels: codebook: a codebook has {_CODEBOOK_BITS} bits or fewer, and {min(widths)} are asked for; "
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
        levels = "table" if config.levels == "codebook" and bits <= _CODEBOOK_BITS else "uniform"
        return WeightFormat(bits=bits, levels=levels, channels=config.per_channel, learned=True)

    rates = {"log_step": config.step_learning_rate, "levels": config.step_learning_rate}
    return qat.train(source, out, config, context, form, levels.codebook, levels.least_squares, rates, learned=True)
