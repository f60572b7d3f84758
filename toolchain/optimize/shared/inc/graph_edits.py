"""Graph edits around Intel Neural Compressor: shared weights stay one, and int8 weights are stored as int8."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from toolchain.core.errors import RecipeError, require


def deduplicate(model: Any) -> None:
    """Keeps one of equal initializers; scalars stay, because they are found by their names."""
    first: dict[tuple[Any, ...], str] = {}
    renamed = {}
    for tensor in model.graph.initializer:
        if tensor.dims:
            content = require("onnx", "torch").numpy_helper.to_array(tensor).tobytes()
            kept = first.setdefault((tensor.data_type, tuple(tensor.dims), content), tensor.name)
            if kept != tensor.name:
                renamed[tensor.name] = kept
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    left = [tensor for tensor in model.graph.initializer if tensor.name not in renamed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(left)


def weights_read_often(model: Any) -> dict[str, int]:
    """Weights that more than one matrix product reads, and how many do."""
    names = {tensor.name for tensor in model.graph.initializer}
    counts = Counter(node.input[1] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in names)
    return {name: count for name, count in counts.items() if count > 1}


def unshare(model: Any) -> dict[str, str]:
    """Gives each matrix product a copy of the weight that it shares; copy → weight, the first reader's name kept."""
    shared = weights_read_often(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in shared}
    groups: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            continue
        name = node.input[1]
        if name in groups:
            copy = model.graph.initializer.add()
            copy.CopyFrom(weights[name])
            copy.name = node.input[1] = f"{name}.{node.name}"
        groups[node.input[1]] = name
    return groups


def fold_quantized_weights(model: Any) -> None:
    """Stores as int8 the weights that the package leaves in floating point before a QuantizeLinear."""
    onnx = require("onnx", "torch")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    left = []
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in constants:
            left.append(node)
            continue
        weight, scale, zero = (onnx.numpy_helper.to_array(constants[name]) for name in node.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if scale.ndim:
            shape = [1] * weight.ndim
            shape[axis] = -1
            scale, wide = scale.reshape(shape), zero.reshape(shape)
        else:
            wide = zero
        limits = np.iinfo(zero.dtype)
        narrow = np.clip(np.rint(weight / scale) + wide, limits.min, limits.max).astype(zero.dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(narrow, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(left)
    used = {name for node in left for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def check_groups(model: Any, group_size: int) -> None:
    """Refuses groups that the package packs wrongly.

    It packs two zero points a byte through the whole weight, ONNX Runtime reads them column by column.

    Raises:
        RecipeError: A weight has an odd number of groups in a column.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        rows = shapes.get(node.input[1], (0,))[0] if node.op_type == "MatMul" else 0
        if -(-rows // group_size) % 2:
            raise RecipeError(
                f"group_size: {group_size} makes an odd number of groups of the {rows} rows of {node.input[1]}, whose "
                "zero points Intel Neural Compressor packs wrongly",
                "set symmetric: true, which has no zero points, or a smaller group_size",
            )
