"""ONNX files: opened within limits, measured, and told apart by dialect."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.core.errors import require
from toolchain.model import onnx_file

#: A model of more bytes keeps its weights in a file of their own: protobuf holds at most 2 GiB in one.
MAX_BYTES = 1_900_000_000


def load(path: Path, *, weights: bool = True) -> Any:
    """Opens an ONNX file, its external data confined to its folder.

    Args:
        path: The ``.onnx`` file.
        weights: Whether to load external data too.

    Returns:
        The ``onnx.ModelProto``.

    Raises:
        ModelError: Not an ONNX file, too large, or external data outside the file's folder or missing.
    """
    onnx = require("onnx", "torch")
    external = onnx_file.inspect(path).external
    model = onnx.load(str(path), load_external_data=False)
    if weights and external:
        onnx.load_external_data_for_model(model, str(path.parent))
    return model


def initializers(model: Any) -> Iterator[Any]:
    """Every initializer of the graph and of its subgraphs and functions."""
    for current in _graphs(model):
        yield from current.initializer


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, and those of its loops and branches."""
    pending = [model.graph]
    while pending:
        current = pending.pop()
        yield current
        for node in current.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += list(attribute.graphs)


def dialect(model: Any) -> str:
    """The dialect of a graph: which engines can take it.

    ``ort`` when it uses ONNX Runtime's own operators or dynamic int8, ``qdq-asymmetric`` when it has int8 Q/DQ pairs
    with zero points, ``qdq-fp8`` when some pairs are of FP8, ``qdq`` when all are of symmetric integers, else
    ``standard``.
    """
    domains = {node.domain for part in _graphs(model) for node in part.node}
    kinds = Counter(node.op_type for node in model.graph.node)
    if domains - {"", "ai.onnx"} or kinds["DynamicQuantizeLinear"] or kinds["MatMulInteger"]:
        return "ort"
    if not kinds["QuantizeLinear"] and not kinds["DequantizeLinear"]:
        return "standard"
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = "qdq"
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2]:
            zero = constants.get(node.input[2])
            if zero is not None and zero.data_type == 17:  # FLOAT8E4M3FN
                return "qdq-fp8"
            if zero is None or zero.data_type not in (2, 3, 6, 22):  # TensorProto.UINT8, INT8, INT32, INT4
                return "ort"
            if zero.data_type == 2 or _any_nonzero(zero):
                found = "qdq-asymmetric"
    return found


def _any_nonzero(tensor: Any) -> bool:
    onnx = require("onnx", "torch")
    return bool(onnx.numpy_helper.to_array(tensor).any())


def narrowed(model: Any) -> str:
    """Return ``fp16`` or ``bf16`` where the graph has weights of that type, else ""."""
    kinds = {tensor.data_type for tensor in initializers(model) if tensor.dims}
    return "fp16" if 10 in kinds else "bf16" if 16 in kinds else ""  # TensorProto.FLOAT16, BFLOAT16


def parameters(model: Any) -> int:
    """Numbers that the model learned: the elements of its weights, whatever their type, shared ones once.

    Scales and zero points are not counted: scalars, and vectors that only Q/DQ and quantized operators read.
    """
    quantization = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            quantization |= set(node.input[1:])
    names = ("_scale", "_zero_point")
    packed = {name: count for node in model.graph.node for name, count in _packed(node)}
    total = 0
    for tensor in initializers(model):
        if tensor.name in quantization or tensor.name.endswith(names) or not tensor.dims:
            continue
        if tensor.name in packed:
            total += packed[tensor.name] or 2 * math.prod(tensor.dims)
            continue
        if tensor.data_type in (6, 7, 9):  # int32 and int64 hold shapes and indices, bool holds masks
            continue
        total += math.prod(tensor.dims)
    return total


def _packed(node: Any) -> Iterator[tuple[str, int]]:
    """The weight of a node that packs several numbers into a byte, and how many it holds; 0: two to a byte."""
    sizes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "MatMulNBits":
        yield node.input[1], sizes["K"] * sizes["N"]
    if node.op_type == "GatherBlockQuantized" and sizes.get("bits", 4) == 4:
        yield node.input[0], 0


def size_bytes(model: Any) -> int:
    """Return about how many bytes a model has; protobuf itself cannot count a model of more than 2 GiB."""
    weights: int = sum(len(tensor.raw_data) or tensor.ByteSize() for tensor in initializers(model))
    nodes: int = sum(node.ByteSize() for node in model.graph.node)
    return weights + nodes


def save(model: Any, path: Path) -> None:
    """Write an ONNX file; weights lie beside it when they are too many for one file."""
    onnx = require("onnx", "torch")
    large = size_bytes(model) > MAX_BYTES
    onnx.save(model, str(path), save_as_external_data=large, location=f"{path.name}.data" if large else None)
    if large:  # what is written beside is gone from the model, which callers go on with
        onnx.load_external_data_for_model(model, str(path.parent))
