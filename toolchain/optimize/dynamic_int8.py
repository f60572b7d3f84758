"""Int8 weights, activations quantized on the fly (ONNX Runtime's dynamic quantization).

``W ≈ s·q`` with one scale ``s`` per output channel; at run time each activation tensor gets its own scale and zero
point from its own minimum and maximum, so no calibration is needed. ONNX Runtime runs the products as
DynamicQuantizeMatMul; no other engine takes the graph. See Jacob et al., arXiv 1712.05877, for the affine scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core.errors import require
from toolchain.core.stage import Context, Metrics, StageConfig
from toolchain.model import graph
from toolchain.optimize.shared import half, int8

VERSION = 1
LIBRARIES = ("onnxruntime", "onnx")
TAKES = ("standard",)
GIVES = "ort"
AGREEMENT = 0.98

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
        quantize(model, out / "model.onnx", config, excluded)
    return int8.report(graph.load(out / "model.onnx"))


def quantize(model: Any, target: Path, config: Config, excluded: Sequence[str]) -> None:
    """Quantizes a graph.

    Args:
        model: The float graph, without Gemm, every node named; it is used up.
        target: The file to write.
        config: Settings.
        excluded: Names of nodes that stay in floating point.
    """
    quantization = require("onnxruntime.quantization", "cpu")
    onnx = require("onnx", "torch")
    quantization.quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=config.per_channel,
        reduce_range=config.reduce_range,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=list(excluded),
        use_external_data_format=graph.size_bytes(model) > graph.MAX_BYTES,
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )
