"""Int8 weights and activations by Intel Neural Compressor's static quantization (Q/DQ format).

``x ≈ s·(q − z)`` with ``s`` and ``z`` from what the float graph computes on calibration sentences, as in
``static_int8``, by another implementation: ranges are the extremes, a percentile, or the range of least
Kullback-Leibler divergence. ``symmetric`` is the package's TensorRT backend, whose graphs every engine takes.
See its documentation, intel.github.io/neural-compressor, and Jacob et al., arXiv 1712.05877.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.optimize.shared import half
from toolchain.optimize.shared.inc import quantize

VERSION = 2
LIBRARIES = quantize.LIBRARIES
TAKES = ("standard",)
AGREEMENT = 0.98
METHOD = "quantized"

#: It quantizes single precision.
requires = half.refusal
#: Versions in the interpreter that the settings name; empty for this one.
fingerprint = quantize.fingerprint

_ALGORITHMS = {"min_max": "minmax", "percentile": "percentile", "entropy": "kl"}


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of Intel Neural Compressor's static quantization.

    Attributes:
        calibration: How an activation's range is chosen: the extremes, the percentile 99.999, or by least divergence;
            the latter two hold every calibrated value in memory.
        calibration_samples: Training sentences to read.
        symmetric: Activations int8 around zero (dialect ``qdq``); otherwise uint8 (``qdq-asymmetric``).
        per_channel: One weight scale per output channel instead of one per weight.
        embeddings: Quantize the embedding tables too.
        attention: Quantize the two products inside attention too.
        reduce_range: 7-bit weights, for CPUs whose int8 products saturate (AVX2 and AVX-512 without VNNI).
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns.
        python: Interpreter of an environment that has the package; empty for this one.
    """

    calibration: Literal["min_max", "percentile", "entropy"] = "min_max"
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
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
    """Calibrates and quantizes ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard`` and its tokenizer.
        out: Folder to write.
        config: Settings.
        context: Gives the training sentences.

    Returns:
        nodes, parameters, int8_weights, float_weights, and the package's versions.
    """
    job = quantize.job(
        "inc_static",
        config,
        settings=quantize.static(config.symmetric, config.reduce_range)
        | {"op_type_dict": quantize.weights(config.per_channel, _ALGORITHMS[config.calibration])},
        dialect=gives(config, "standard"),
    )
    return quantize.quantize(quantize.load(source), source, out, job, context)
