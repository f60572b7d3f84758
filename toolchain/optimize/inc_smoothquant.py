"""Int8 weights and activations by Intel Neural Compressor, after SmoothQuant has moved outliers into the weights.

``Y = (X·diag(s)⁻¹)·(diag(s)·W)`` with ``s_j = max|X_j|^a / max|W_j|^(1−a)`` and ``a`` the setting ``alpha``: the same
product, with activations whose channels are of like size, so that one scale fits them all; then static quantization as
in ``inc_static``. Xiao et al., arXiv 2211.10438. The division is a Mul before each product, unless the package can fold
it into what comes before. Layers that share a weight (ALBERT) share ``s`` too, from the maxima of them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.optimize.shared import half
from toolchain.optimize.shared.inc import quantize

VERSION = 1
LIBRARIES = quantize.LIBRARIES
TAKES = ("standard",)
AGREEMENT = 0.98
METHOD = "quantized"

#: It quantizes single precision.
requires = half.refusal
#: Versions in the interpreter that the settings name; empty for this one.
fingerprint = quantize.fingerprint


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of SmoothQuant.

    Attributes:
        alpha: How much of the difficulty moves from activations (0) to weights (1).
        scale_per_product: Own scales for each product of one input (query, key, value): three Muls instead of one.
        calibration_samples: Training sentences to read; the inputs of all products are held in memory.
        symmetric: Activations int8 around zero (dialect ``qdq``); otherwise uint8 (``qdq-asymmetric``).
        per_channel: One weight scale per output channel instead of one per weight.
        embeddings: Quantize the embedding tables too.
        attention: Quantize the two products inside attention too.
        reduce_range: 7-bit weights, for CPUs whose int8 products saturate (AVX2 and AVX-512 without VNNI).
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns; all are smoothed.
        python: Interpreter of an environment that has the package; empty for this one.
    """

    alpha: Annotated[float, Ge(0), Le(1)] = 0.7
    scale_per_product: bool = False
    calibration_samples: Annotated[int, Ge(1), Le(10_000)] = 128
    symmetric: bool = False
    per_channel: bool = True
    embeddings: bool = True
    attention: bool = False
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()
    python: str = ""


def gives(config: Config, taken: str) -> str:
    """``qdq`` when symmetric: every engine takes it; else ``qdq-asymmetric``, whatever was taken."""
    return "qdq" if config.symmetric else "qdq-asymmetric"


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Smooths, calibrates and quantizes ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard`` and its tokenizer.
        out: Folder to write.
        config: Settings.
        context: Gives the training sentences.

    Returns:
        nodes, parameters, int8_weights, float_weights, and the package's versions.
    """
    smoothing = {"alpha": config.alpha, "folding": True, "scales_per_op": config.scale_per_product}
    job = quantize.job(
        "inc_smoothquant",
        config,
        settings=quantize.static(config.symmetric, config.reduce_range)
        | {
            "recipes": {"smooth_quant": True, "smooth_quant_args": smoothing},
            "op_type_dict": quantize.weights(config.per_channel, "percentile"),
        },
        dialect=gives(config, "standard"),
        readings=2,
        smooth=True,
    )
    return quantize.quantize(quantize.load(source), source, out, job, context)
