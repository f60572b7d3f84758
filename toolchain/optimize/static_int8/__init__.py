"""Int8 weights and activations with ranges calibrated on training sentences (ONNX Runtime's Q/DQ format).

``x ≈ s·(q − z)``: ``s`` and ``z`` come from the values seen while the float graph reads calibration sentences;
symmetric means ``z = 0``, which OpenVINO and TensorRT take too (dialect ``qdq``). Jacob et al., arXiv 1712.05877; the
ways to choose a range are compared by Wu et al., arXiv 2004.09602: ``min_max`` keeps every value, ``percentile`` cuts
the tails, and ``entropy`` minimizes the Kullback-Leibler divergence between the two distributions. In an encoder the
tails are not noise: a few channels are very large at one or two tokens of each text. The longer the texts, the smaller
their share, until a percentile cuts them all off. So outliers of activations are smoothed into the weights before
(SmoothQuant, arXiv 2211.10438): a Mul before the products, a few percent of the engine's time. After, biases take up
what rounding shifts (arXiv 1906.04721, section 4.2).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, StageConfig
from toolchain.model import graph
from toolchain.optimize.shared import half, int8
from toolchain.optimize.static_int8.quantization import Quantization

VERSION = 3
LIBRARIES = ("onnxruntime", "onnx")
TAKES = ("standard",)
AGREEMENT = 0.98
METHOD = "quantized"

#: It quantizes single precision.
requires = half.refusal


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of static quantization.

    Attributes:
        calibration: How an activation's range is chosen.
        calibration_samples: Training sentences to read.
        percentile: With ``percentile``: the part of values, in percent, that the range covers.
        symmetric: Activations int8 around zero (dialect ``qdq``); otherwise uint8 with a zero point
            (``qdq-asymmetric``).
        per_channel: One weight scale per output channel instead of one per weight.
        embeddings: Quantize the embedding tables too.
        attention: Quantize the two products inside attention too.
        reduce_range: 7-bit weights, for CPUs whose int8 products saturate (AVX2 and AVX-512 without VNNI).
        smooth: How far outliers move from activations (0) into weights (1) before; 0 leaves them.
        correct_biases: Take what quantization shifts in the mean of a product out of its bias.
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns.
    """

    calibration: Literal["min_max", "percentile", "entropy"] = "min_max"
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    percentile: Annotated[float, Gt(50), Le(100)] = 99.999
    symmetric: bool = True
    per_channel: bool = True
    embeddings: bool = True
    attention: bool = False
    reduce_range: bool = False
    smooth: Annotated[float, Ge(0), Le(1)] = 0.8
    correct_biases: bool = True
    exclude: tuple[str, ...] = ()


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
        nodes, parameters, int8_weights, float_weights, calibration_samples, corrected_biases, smoothed_inputs.
    """
    path = source / "model.onnx"
    model = int8.replace_gemm(int8.load_float(path))
    parameters = graph.parameters(model)
    excluded = int8.excluded_nodes(model, config.exclude, embeddings=config.embeddings, attention=config.attention)
    with tempfile.TemporaryDirectory(dir=context.work) as folder:
        quantization = Quantization(source, model, excluded, config, context, Path(folder))
        counted = quantization.write(out / "model.onnx", excluded)
    counted |= {"parameters": parameters, "calibration_samples": sum(map(_rows, quantization.samples))}
    return int8.report(graph.load(out / "model.onnx")) | counted


def _rows(batch: dict[str, Any]) -> int:
    return int(batch["input_ids"].shape[0])
