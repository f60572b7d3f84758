"""Rewrites of a graph that ONNX Runtime alone wants; each gives the same numbers, up to the rounding of ties.

1. Int8 activations become uint8: ``s·q = s·((q + 128) − 128)``. ONNX Runtime fuses a matrix product with int8 weights
   into one integer kernel only when its activations are uint8 (x86 has no fast product of two signed operands without
   AVX-VNNI-INT8); otherwise it turns the weights back into floats at every run.
2. A lookup in a quantized table looks up first: ``Gather(Dequantize(W), i) = Dequantize(Gather(W, i))``, one scale per
   table. Otherwise every run turns the whole table into floats.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from toolchain.core.errors import require
from toolchain.model import graph

_INT8 = 3  # TensorProto.INT8


def rewritten(path: Path, folder: Path) -> Path:
    """Applies every rule.

    Args:
        path: An ONNX file without external data.
        folder: Where to write the rewritten graph.

    Returns:
        The rewritten file, or the path itself when no rule applied.
    """
    model = graph.load(path)
    if not unsigned_activations(model) + lookup_before_dequantizing(model):
        return path
    graph.save(model, folder / path.name)
    return folder / path.name


def unsigned_activations(model: Any) -> int:
    """Applies rule 1 in place.

    Args:
        model: A graph with Q/DQ pairs.

    Returns:
        How many activations were rewritten.
    """
    onnx = require("onnx", "torch")
    import numpy as np

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    made: dict[str, str] = {}
    count = 0
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        zero = constants[node.input[2]]
        after = readers[node.output[0]]
        pairs = all(reader.op_type == "DequantizeLinear" and reader.input[2:] == node.input[2:] for reader in after)
        if zero.data_type != _INT8 or not pairs or not after:
            continue
        if zero.name not in made:
            shifted = onnx.numpy_helper.to_array(zero).astype(np.int16) + 128
            made[zero.name] = f"{zero.name}.unsigned"
            model.graph.initializer.append(onnx.numpy_helper.from_array(shifted.astype(np.uint8), made[zero.name]))
        for changed in (node, *after):
            changed.input[2] = made[zero.name]
        count += 1
    return count


def lookup_before_dequantizing(model: Any) -> int:
    """Applies rule 2 in place.

    Args:
        model: A graph with Q/DQ pairs.

    Returns:
        How many lookups were rewritten.
    """
    onnx = require("onnx", "torch")
    scalars = {tensor.name for tensor in model.graph.initializer if not tensor.dims or list(tensor.dims) == [1]}
    tables = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    dequantize = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    uses = Counter(name for node in model.graph.node for name in node.input)
    nodes, gone, count = [], set(), 0
    for node in model.graph.node:
        source = dequantize.get(node.input[0]) if node.op_type == "Gather" else None
        if source is None or source.input[0] not in tables or source.input[1] not in scalars or uses[node.input[0]] > 1:
            nodes.append(node)
            continue
        gone.add(source.output[0])
        narrow, wide = f"{node.output[0]}.quantized", node.output[0]
        nodes.append(onnx.helper.make_node("Gather", [source.input[0], node.input[1]], [narrow], axis=_axis(node)))
        nodes.append(onnx.helper.make_node("DequantizeLinear", [narrow, *source.input[1:]], [wide]))
        count += 1
    del model.graph.node[:]
    model.graph.node.extend(
        node for node in nodes if not (node.op_type == "DequantizeLinear" and node.output[0] in gone)
    )
    return count


def _axis(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
