"""What the int8 passes share: choosing nodes, and ONNX Runtime's quantizer kept quiet and within memory."""

from __future__ import annotations

import fnmatch
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.core.errors import ModelError, RecipeError, require
from toolchain.model import graph


def excluded_nodes(model: Any, patterns: Sequence[str], *, embeddings: bool, attention: bool = False) -> list[str]:
    """Names of the nodes that stay in floating point.

    Every node gets its name from its output where it has none, so that it can be named in a recipe.

    Args:
        model: The graph; its nodes are named in place.
        patterns: Node names or shell patterns, matched against node names and against the weights that they read.
        embeddings: Whether lookups of weight tables are quantized; other lookups never are.
        attention: Whether products of two activations are quantized.

    Raises:
        RecipeError: A pattern matches nothing.
    """
    weights = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    found, unused = [], set(patterns)
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
        names = [node.name, *(name for name in node.input if name in weights)]
        hit = {pattern for pattern in patterns if any(fnmatch.fnmatchcase(name, pattern) for name in names)}
        unused -= hit
        table = node.op_type == "Gather" and weights.get(node.input[0]) == 2
        dynamic = node.op_type == "MatMul" and node.input[1] not in weights
        if hit or (node.op_type == "Gather" and not (table and embeddings)) or (dynamic and not attention):
            found.append(node.name)
    if unused:
        some = ", ".join(node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm"))[:300]
        raise RecipeError(
            f"exclude: nothing in the graph matches {', '.join(sorted(unused))}", f"matrix products: {some} …"
        )
    return found


def load_float(path: Path) -> Any:
    """Opens a graph to be quantized; shapes noted by the exporter are dropped, because the quantizer trips over them.

    Raises:
        ModelError: It is quantized already.
    """
    model = graph.load(path)
    if graph.dialect(model) != "standard":
        raise ModelError(f"{path} is quantized or fused already", "quantize the graph that export gives")
    del model.graph.value_info[:]
    return model


def replace_gemm(model: Any) -> Any:
    """Rewrites each Gemm as MatMul and Add, which the quantizers handle per channel."""
    quantization = require("onnxruntime.quantization.onnx_model", "cpu")
    wrapped = quantization.ONNXModel(model)
    wrapped.replace_gemm_with_matmul()
    return wrapped.model


@contextmanager
def quantizer_errors(path: Path) -> Iterator[None]:
    """Keeps ONNX Runtime's advice off the terminal and turns its errors into ours."""
    root = logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (ValueError, RuntimeError, AttributeError, LookupError, AssertionError) as error:
        raise ModelError(
            f"{path}: ONNX Runtime's quantizer failed: {str(error).strip().splitlines()[0] if str(error) else error!r}",
            "leave the node out with exclude: [NAME], or report the graph",
        ) from error
    finally:
        logging.disable(disabled)
        root.setLevel(level)  # some of its modules configure logging when they are imported
        root.handlers[:] = handlers


def report(model: Any) -> dict[str, Any]:
    """What became of the graph: its size in nodes, and how many weights are int8."""
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) >= 2]
    narrow = [tensor for tensor in weights if tensor.data_type in (2, 3)]  # TensorProto.UINT8, INT8
    return {
        "nodes": len(model.graph.node),
        "parameters": graph.parameters(model),
        "int8_weights": len(narrow),
        "float_weights": len(weights) - len(narrow),
    }


def quantize_dynamic(
    model: Any, target: Path, excluded: Sequence[str], *, per_channel: bool, reduce_range: bool
) -> None:
    """Quantize the weights of a graph to int8; activations are quantized while it runs.

    Args:
        model: The float graph, without Gemm, every node named; it is used up.
        target: The file to write.
        excluded: Names of nodes that stay in floating point.
        per_channel: One scale per output channel instead of one per weight.
        reduce_range: 7-bit weights.
    """
    quantization = require("onnxruntime.quantization", "cpu")
    onnx = require("onnx", "torch")
    quantization.quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=per_channel,
        reduce_range=reduce_range,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=list(excluded),
        use_external_data_format=graph.size_bytes(model) > graph.MAX_BYTES,
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )
