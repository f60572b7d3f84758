"""SmoothQuant: moves outliers of activations into the weights that read them, so that one scale fits all channels.

``Y = (X·diag(s)⁻¹)·(diag(s)·W)`` with ``s_j = max|X_j|^a / max|W_j|^(1−a)``: the same product, of activations whose
channels are of like size (Xiao et al., arXiv 2211.10438). The division is a Mul before the products.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context
from toolchain.optimize import _observed

#: A channel that is always zero is left as it is, and none is scaled by more than this.
_LIMIT = 1e4


def smooth(
    model: Any,
    path: Path,
    samples: Sequence[Mapping[str, Any]],
    alpha: float,
    excluded: Collection[str],
    context: Context,
) -> int:
    """Smooths the inputs of a float graph's matrix products in place.

    Products of one input have one Mul; products of one weight (ALBERT's layers) have equal scales, from the maxima of
    them all, so that the weight stays one.

    Args:
        model: The float graph, without Gemm, every node named.
        path: What to call it in an error.
        samples: Batches of inputs without padding.
        alpha: How much moves from activations (0) to weights (1).
        excluded: Names of nodes that stay in floating point.
        context: Threads, and a folder for temporary files.

    Returns:
        How many inputs were smoothed.
    """
    numpy_helper = require("onnx", "torch").numpy_helper
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in tensors]
    # A weight that something else reads as well has to stay as it is.
    kept = {name for node in model.graph.node if node not in products or node.name in excluded for name in node.input}
    products = [node for node in products if node.name not in excluded and node.input[1] not in kept]
    names = sorted({node.input[0] for node in products})
    largest = dict.fromkeys(names, np.zeros(1, dtype=np.float32))
    with _observed.every_value(model, path, context) as session, progress("smoothing", len(samples)) as bar:
        for batch in samples:
            seen = session.run(batch, names)
            for name in names:
                channels = np.abs(seen[name]).reshape(-1, seen[name].shape[-1]).max(axis=0)
                largest[name] = np.maximum(largest[name], channels)
            bar.advance()
    for nodes in _groups(products):
        weights = {node.input[1] for node in nodes}
        inputs = {node.input[0] for node in nodes}
        of_weights = np.max([np.abs(numpy_helper.to_array(tensors[name])).max(axis=1) for name in weights], axis=0)
        of_inputs = np.max([largest[name] for name in inputs], axis=0)
        scales = np.ones_like(of_inputs)
        alive = (of_inputs > 0) & (of_weights > 0)
        scales[alive] = of_inputs[alive] ** alpha / of_weights[alive] ** (1 - alpha)
        scales = np.clip(scales, 1 / _LIMIT, _LIMIT).astype(np.float32)
        for name in weights:
            scaled = numpy_helper.to_array(tensors[name]) * scales[:, None]
            tensors[name].CopyFrom(numpy_helper.from_array(scaled, name))
        _divide(model, nodes, 1 / scales)
    return len(names)


def _groups(products: Sequence[Any]) -> list[list[Any]]:
    """Products that must have equal scales: those of one input, and those of one weight."""
    found: list[tuple[set[str], list[Any]]] = []
    for node in products:
        read, nodes = set(node.input), [node]
        for other in [entry for entry in found if entry[0] & read]:
            found.remove(other)
            read, nodes = read | other[0], [*other[1], *nodes]
        found.append((read, nodes))
    return [nodes for _, nodes in found]


def _divide(model: Any, nodes: Sequence[Any], factors: Any) -> None:
    """Puts a Mul before products of the same scales, one for each of their inputs."""
    onnx = require("onnx", "torch")
    constant = f"{nodes[0].input[1]}.smoothing"
    model.graph.initializer.append(onnx.numpy_helper.from_array(factors, constant))
    position = {node.name: index for index, node in enumerate(model.graph.node)}
    names = sorted({node.input[0] for node in nodes}, key=lambda name: -min(
        position[node.name] for node in nodes if node.input[0] == name
    ))  # fmt: skip
    for name in names:  # from the last to the first, so that positions hold
        readers = [node for node in nodes if node.input[0] == name]
        first = min(position[node.name] for node in readers)
        mul = onnx.helper.make_node("Mul", [name, constant], [f"{name}.smoothed"], name=f"{name}.smoothing")
        for node in readers:
            node.input[0] = mul.output[0]
        model.graph.node.insert(first, mul)
