"""Int8 weights, activations quantized on the fly, by Intel Neural Compressor's dynamic quantization.

``W ≈ s·q``; at run time each activation tensor gets its scale and zero point from its own extremes, so nothing is
calibrated. ONNX Runtime alone runs the products (MatMulInteger). The same scheme as ``dynamic_int8``, by another
implementation. See intel.github.io/neural-compressor, and Jacob et al., arXiv 1712.05877.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolchain.core.stage import Context, Metrics, StageConfig
from toolchain.optimize.shared import half
from toolchain.optimize.shared.inc import quantize

VERSION = 1
LIBRARIES = quantize.LIBRARIES
TAKES = ("standard",)
GIVES = "ort"
AGREEMENT = 0.98
METHOD = "quantized"

#: It quantizes single precision.
requires = half.refusal
#: Versions in the interpreter that the settings name; empty for this one.
fingerprint = quantize.fingerprint


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of Intel Neural Compressor's dynamic quantization.

    Attributes:
        per_channel: One scale per output channel instead of one per weight.
        embeddings: Quantize the embedding tables too: here symmetric, with one scale each, which costs more accuracy
            than what the other passes do.
        reduce_range: 7-bit weights, for CPUs whose int8 products saturate (AVX2 and AVX-512 without VNNI).
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns.
        python: Interpreter of an environment that has the package; empty for this one.
    """

    per_channel: bool = True
    embeddings: bool = False
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()
    python: str = ""


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Quantizes ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard``.
        out: Folder to write.
        config: Settings.
        context: Threads, and a folder to work in.

    Returns:
        nodes, parameters, int8_weights, float_weights, and the package's versions.
    """
    job = quantize.job(
        "inc_dynamic",
        config,
        settings={
            "approach": "dynamic",
            "reduce_range": config.reduce_range,
            "op_type_dict": quantize.weights(config.per_channel),
        },
        dialect=GIVES,
    )
    return quantize.quantize(quantize.load(source), source, out, job, context)
