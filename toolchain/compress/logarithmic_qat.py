"""Logarithmic quantization in training: levels are powers of a base, dense where weights are dense.

``w ≈ ± s_c · base^(−k)``, k from 0 to ``2^(b−1) − 2``, or 0, with ``s_c`` the largest weight of a channel; the nearest
level is taken. Base 2 is Miyashita et al., arXiv 1603.01025; finer bases spread their levels over a narrower range.
Up to 4 bits the levels are integers of 8 bits, exactly for base 2 and otherwise to within 1/254 of the largest, so that
int8 kernels multiply them. With more bits, or where the largest level is more than 127 times the least, they are not:
those weights stay floats in the graph, rounded, what they are multiplied with is not rounded, and the engine is neither
smaller nor faster for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain.compress.shared import levels, qat
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "quantized"

fits = qat.fits


@dataclass(frozen=True, kw_only=True)
class Config(qat.QatConfig):
    """Settings of logarithmic quantization in training.

    Attributes:
        base: Each level is this many times the one below it.
        bits: Bits of a weight of the linear layers.
        embedding_bits: Bits of a number in the tables of embeddings; null leaves them as they are.
    """

    base: Annotated[float, Gt(1), Le(4)] = 2.0
    bits: Annotated[int, Ge(2), Le(8)] = 4
    embedding_bits: Annotated[int, Ge(2), Le(8)] | None = 4


def exports(config: Config) -> str:
    """The dialect of the graph that such a model is exported to: one that has no integers is a plain one."""
    linear, tables = qat.widths(config)
    if any(levels.top_integer(config.base, bits) for bits in linear):
        return qat.exports(config)
    integers = tables and levels.top_integer(config.base, tables)
    return "qdq" if integers else "standard"  # nothing that is read has a zero point


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
        return WeightFormat(
            bits=bits, levels="table", channels=config.per_channel, top=levels.top_integer(config.base, bits)
        )

    def table(weight: Any, form: Any) -> Any:
        return levels.powers(config.base, form.bits)

    return qat.train(source, out, config, context, form, table)
