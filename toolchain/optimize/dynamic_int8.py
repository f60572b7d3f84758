"""Int8 weights, activations quantized on the fly (ONNX Runtime's dynamic quantization).

``W ≈ s·q`` with one scale ``s`` per output channel; at run time each activation tensor gets its own scale and zero
point from its own minimum and maximum, so no calibration is needed. ONNX Runtime runs the products as
DynamicQuantizeMatMul; no other engine takes the graph. See Jacob et al., arXiv 1712.05877, for the affine scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolchain.core.stage import Context, Metrics, StageConfig
from toolchain.model import graph
from toolchain.optimize.shared import half, int8

VERSION = 1
LIBRARIES = ("onnxruntime", "onnx")
TAKES = ("standard",)
GIVES = "ort"
AGREEMENT = 0.98
METHOD = "quantized"

#: It quantizes single precision.
requires = half.refusal


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of dynamic quantization.

    Attributes:
        per_channel: One scale per output channel instead of one per weight.
        embeddings: Quantize the embedding tables too.
        reduce_range: 7-bit weights, for CPUs whose int8 products saturate (AVX2 and AVX-512 without VNNI).
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns.
    """

    per_channel: bool = True
    embeddings: bool = True
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Quantizes ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard``.
        out: Folder to write.
        config: Settings.
        context: Not needed.

    Returns:
        nodes, parameters, int8_weights, float_weights.
    """
    path = source / "model.onnx"
    model = int8.replace_gemm(int8.load_float(path))
    excluded = int8.excluded_nodes(model, config.exclude, embeddings=config.embeddings)
    with int8.quantizer_errors(path):
        int8.quantize_dynamic(
            model, out / "model.onnx", excluded, per_channel=config.per_channel, reduce_range=config.reduce_range
        )
    return int8.report(graph.load(out / "model.onnx"))
