"""ONNX files: opened within limits, measured, and told apart by dialect."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.core.errors import ModelError, require

#: A graph with more nodes than this is refused before anything walks it.
MAX_NODES = 200_000
#: A graph file (without external data) above this cannot be a protobuf message.
MAX_BYTES = 2**31 - 1


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
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{path} is empty")
    if size > MAX_BYTES:
        raise ModelError(f"{path} is {size:,} bytes; an ONNX graph has at most {MAX_BYTES:,}", "use external data")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own exception class differs between its backends
        raise ModelError(f"{path} is not an ONNX file: {str(error).strip() or type(error).__name__}") from error
    if not model.graph.node or not model.graph.output:
        raise ModelError(f"{path} is not an ONNX model: it has no nodes or no outputs")
    if len(model.graph.node) > MAX_NODES:
        raise ModelError(f"{path} has {len(model.graph.node):,} nodes; at most {MAX_NODES:,} are read")
    external = external_files(model, path)
    if weights and external:
        onnx.load_external_data_for_model(model, str(path.parent))
    return model


def external_files(model: Any, path: Path) -> list[str]:
    """Names of the files beside the graph that hold weights, each checked to lie in the graph's folder.

    Raises:
        ModelError: An absolute path, ``..``, a link, or a file that is missing or too short.
    """
    found: dict[str, int] = {}
    for tensor in initializers(model):
        if tensor.data_location != 1:  # TensorProto.EXTERNAL
            continue
        entry = {item.key: item.value for item in tensor.external_data}
        location = entry.get("location", "")
        target = path.parent / location
        inside = Path(location)
        if not location or inside.is_absolute() or ".." in inside.parts or target.is_symlink():
            raise ModelError(
                f"{path}: weights of {tensor.name!r} lie outside the file's folder ({location!r}), which is refused",
                "save the model with its data beside it: onnx.save(model, path, save_as_external_data=True)",
            )
        if not target.is_file():
            raise ModelError(f"{path}: the file with its weights is missing: {location}", f"put it into {path.parent}")
        end = int(entry.get("offset", "0")) + int(entry.get("length", "0"))
        found[location] = max(found.get(location, 0), end)
        if target.stat().st_size < found[location]:
            raise ModelError(f"{target} is cut short: {target.stat().st_size:,} of at least {end:,} bytes")
    return sorted(found)


def initializers(model: Any) -> Iterator[Any]:
    """Every initializer of the graph and of its subgraphs and functions."""
    pending = [model.graph]
    while pending:
        current = pending.pop()
        yield from current.initializer
        for node in current.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += list(attribute.graphs)


def dialect(model: Any) -> str:
    """The dialect of a graph: which engines can take it.

    ``ort`` when it uses ONNX Runtime's own operators or asymmetric or dynamic int8, ``qdq`` when it has symmetric int8
    Q/DQ pairs, else ``standard``.
    """
    domains = {node.domain for node in model.graph.node}
    kinds = Counter(node.op_type for node in model.graph.node)
    if domains - {"", "ai.onnx"} or kinds["DynamicQuantizeLinear"] or kinds["MatMulInteger"]:
        return "ort"
    if not kinds["QuantizeLinear"] and not kinds["DequantizeLinear"]:
        return "standard"
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2]:
            zero = constants.get(node.input[2])
            if zero is None or zero.data_type not in (3, 6) or _any_nonzero(zero):  # TensorProto.INT8, INT32
                return "ort"
    return "qdq"


def _any_nonzero(tensor: Any) -> bool:
    onnx = require("onnx", "torch")
    return bool(onnx.numpy_helper.to_array(tensor).any())


def parameters(model: Any) -> int:
    """Numbers that the model learned: the elements of its weights, whatever their type, shared ones once.

    Scales and zero points are not counted: scalars, and vectors that only Q/DQ and quantized operators read.
    """
    quantization = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            quantization |= set(node.input[1:])
    names = ("_scale", "_zero_point")
    total = 0
    for tensor in initializers(model):
        if tensor.name in quantization or tensor.name.endswith(names) or not tensor.dims:
            continue
        if tensor.data_type in (6, 7, 9):  # int32 and int64 hold shapes and indices, bool holds masks
            continue
        total += math.prod(tensor.dims)
    return total


def save(model: Any, path: Path) -> None:
    """Writes an ONNX file; weights lie beside it when they are too many for one file."""
    onnx = require("onnx", "torch")
    large = model.ByteSize() > MAX_BYTES - 2**20
    onnx.save(model, str(path), save_as_external_data=large, location=f"{path.name}.data" if large else None)
