"""Uniform quantization in training: weights and activations are rounded to equal steps while the model learns.

``w ≈ s_c · clamp(round(w / s_c), −(2^(b−1) − 1), 2^(b−1) − 1)`` with ``s_c`` such that the largest weight of a channel
is the largest integer, at every step anew; activations are rounded to 8 bits over ranges seen on training examples
(Jacob et al., arXiv 1712.05877; Krishnamoorthi, arXiv 1806.08342). Gradients pass the rounding (arXiv 1308.3432). The
checkpoint before teaches it by its answers, as for smaller students (quantization-aware distillation, Polino et al.,
arXiv 1802.05668). The export has int8 weights and Q/DQ pairs with these steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.compress.shared import qat
from toolchain.core.stage import Context, Metrics

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "quantized"

fits, exports = qat.fits, qat.exports


@dataclass(frozen=True, kw_only=True)
class Config(qat.QatConfig):
    """Settings of uniform quantization in training."""


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
        return WeightFormat(bits=bits, channels=config.per_channel)

    return qat.train(source, out, config, context, form)
