"""Bias correction: what a quantized weight shifts in the mean of its product is taken out of the bias that follows.

``b' = b + E[x]·(W − Ŵ)`` with ``Ŵ`` quantized and dequantized, and the mean over the tokens of calibration sentences
(Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.2, with means that are measured). It costs nothing
when the graph runs. What activations lose is left alone: they are cut off at a few tokens, a bias moves all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context
from toolchain.optimize import _observed

#: What ONNX Runtime's quantizer appends to a weight's name.
_SUFFIX = "_quantized"


@dataclass(frozen=True)
class _Product:
    """A quantized product with a constant bias behind it.

    Attributes:
        add: The node that adds the bias.
        side: Which of its inputs the bias is.
        activation: The float value that is quantized.
        weight: The weight's name in the float graph.
        widened: The weight, quantized and dequantized, ``[in, out]``.
    """

    add: Any
    side: int
    activation: str
    weight: str
    widened: Any


def correct_biases(
    quantized: Any, reference: Any, path: Path, samples: Sequence[Mapping[str, Any]], context: Context
) -> int:
    """Corrects the biases of a Q/DQ graph in place.

    Layers that share a bias (ALBERT) each get their own: their inputs differ.

    Args:
        quantized: The Q/DQ graph.
        reference: The float graph that it was made of, in which weights and activations have the same names.
        path: What to call it in an error.
        samples: Batches of inputs without padding.
        context: Threads, and a folder for temporary files.

    Returns:
        How many biases were corrected.
    """
    numpy_helper = require("onnx", "torch").numpy_helper
    weights = {tensor.name: tensor for tensor in reference.graph.initializer}
    values = {name for node in reference.graph.node for name in node.output}
    found = [item for item in _products(quantized) if item.weight in weights and item.activation in values]
    if not found:
        return 0
    sums: dict[str, Any] = {item.activation: 0.0 for item in found}
    rows = dict.fromkeys(sums, 0)
    with _observed.every_value(reference, path, context) as session, progress("correcting", len(samples)) as bar:
        for batch in samples:
            seen = session.run(batch, sums)
            for name in sums:
                values = seen[name].reshape(-1, seen[name].shape[-1])
                sums[name] += values.sum(axis=0, dtype=np.float64)
                rows[name] += len(values)
            bar.advance()
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for index, item in enumerate(found):
        lost = numpy_helper.to_array(weights[item.weight]) - item.widened
        bias = numpy_helper.to_array(constants[item.add.input[item.side]])
        corrected = bias + sums[item.activation] / rows[item.activation] @ lost
        name = f"{item.add.input[item.side]}.corrected.{index}"
        quantized.graph.initializer.append(numpy_helper.from_array(corrected.astype(bias.dtype), name))
        item.add.input[item.side] = name
    left = {name for node in quantized.graph.node for name in node.input}
    kept = [tensor for tensor in quantized.graph.initializer if tensor.name in left]
    del quantized.graph.initializer[:]
    quantized.graph.initializer.extend(kept)
    return len(found)


def _products(model: Any) -> Iterator[_Product]:
    numpy_helper = require("onnx", "torch").numpy_helper
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in model.graph.node:
        activation, weight = (makers.get(name) for name in node.input[:2]) if node.op_type == "MatMul" else (None, None)
        if activation is None or weight is None or {activation.op_type, weight.op_type} != {"DequantizeLinear"}:
            continue
        narrow = makers.get(activation.input[0])
        users = readers.get(node.output[0], [])
        if weight.input[0] not in constants or narrow is None or len(users) != 1 or users[0].op_type != "Add":
            continue
        side = next((i for i, name in enumerate(users[0].input) if name in constants), None)
        if side is None or len(constants[users[0].input[side]].dims) != 1:
            continue
        matrix, scale = (numpy_helper.to_array(constants[name]) for name in weight.input[:2])
        yield _Product(
            add=users[0],
            side=side,
            activation=narrow.input[0],
            weight=weight.input[0].removesuffix(_SUFFIX),
            widened=matrix * scale.astype(np.float64),  # symmetric, one scale or one for each column
        )
