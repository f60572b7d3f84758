"""Smoothing: move outliers of activations into the weights that read them, so that one scale fits all channels.

``Y = (X·diag(s)⁻¹)·(diag(s)·W)`` with ``s_j = max|X_j|^a``: the same product, of activations whose channels are of like
size (SmoothQuant, Xiao et al., arXiv 2211.10438). The division is a Mul before the products.

SmoothQuant's own ``s_j = max|X_j|^a / max|W_j|^(1−a)`` is left out on purpose. It also moves outliers of weights into
activations. Here weights have a scale for each output channel, activations have one scale for all channels, and where
GELU is large the weights behind it are large too: at ``a = 0.5`` that made the worst activations twice as large.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context
from toolchain.optimize.shared import observation

#: Channels below this quantile of the channels' maxima are scaled as that quantile is. Other texts than those of
#: calibration may wake a channel that was nearly always zero; scaled up by its own maximum, it would be cut off.
_FLOOR_QUANTILE = 0.1


def channel_maxima(
    model: Any, path: Path, samples: Sequence[Mapping[str, Any]], excluded: Collection[str], context: Context
) -> dict[str, NDArray[np.float32]]:
    """Measure the largest absolute value in each channel of what matrix products read.

    Args:
        model: The float graph, without Gemm, every node named.
        path: What to call it in an error.
        samples: Batches of inputs without padding.
        excluded: Names of nodes that stay in floating point.
        context: Threads, and a folder for temporary files.

    Returns:
        For each activation its maxima, ``[channels]``.
    """
    names = sorted({node.input[0] for node in _products(model, excluded)})
    maxima = dict.fromkeys(names, np.zeros(1, dtype=np.float32))
    with observation.every_value(model, path, context, names) as session, progress("smoothing", len(samples)) as bar:
        for batch in samples:
            values = session.run(batch, names)
            for name in names:
                channels = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(axis=0)
                maxima[name] = np.maximum(maxima[name], channels)
            bar.advance()
    return maxima


def smooth(model: Any, maxima: Mapping[str, NDArray[np.float32]], alpha: float, excluded: Collection[str]) -> int:
    """Smooth the inputs of a float graph's matrix products in place.

    Products of one input have one Mul; products of one weight (ALBERT's layers) have equal scales, from the maxima of
    them all, so that the weight stays one.

    Args:
        model: The float graph, without Gemm, every node named.
        maxima: What :func:`channel_maxima` measured.
        alpha: How much moves from activations (0) to weights (1).
        excluded: Names of nodes that stay in floating point.

    Returns:
        How many inputs were smoothed.
    """
    numpy_helper = require("onnx", "torch").numpy_helper
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = _products(model, excluded)
    for nodes in _groups(products):
        scales = _scales(np.max([maxima[name] for name in {node.input[0] for node in nodes}], axis=0), alpha)
        for name in {node.input[1] for node in nodes}:
            scaled = numpy_helper.to_array(tensors[name]) * scales[:, None]
            tensors[name].CopyFrom(numpy_helper.from_array(scaled, name))
        _divide(model, nodes, 1 / scales)
    return len({node.input[0] for node in products})


def _scales(maxima: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """Return what the channels are divided by."""
    alive = maxima[maxima > 0]
    if not alive.size:
        return np.ones_like(maxima)
    scales: NDArray[np.float32] = np.maximum(maxima, np.quantile(alive, _FLOOR_QUANTILE)) ** np.float32(alpha)
    return scales.astype(np.float32)


def _products(model: Any, excluded: Collection[str]) -> list[Any]:
    """Return the products with weights whose inputs are smoothed: all readers of the weight are to be int8."""
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    names = {node.name for node in products}
    floats = {
        name for node in model.graph.node if node.name not in names or node.name in excluded for name in node.input
    }
    return [node for node in products if node.name not in excluded and node.input[1] not in floats]


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
