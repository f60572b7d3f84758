"""Bias correction: what quantization shifts in the mean of a product is taken out of the bias that follows.

``b' = b + E[x]·W − E[x̂]·Ŵ`` with ``x̂`` and ``Ŵ`` quantized and dequantized, and means over the tokens of calibration
texts (Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.2, with means that are measured). It costs
nothing when the graph runs. ``x̂`` is rounded and not cut off at the ends of the range: what is cut off are a few
tokens, and a bias moves all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context
from toolchain.optimize.shared import observation

#: What ONNX Runtime's quantizer appends to a weight's name.
_SUFFIX = "_quantized"


@dataclass(frozen=True)
class _Product:
    """A quantized product with a constant bias behind it.

    Attributes:
        add: The node that adds the bias.
        side: Which of its inputs the bias is.
        activation: The float value that is quantized.
        step: The scale that it is quantized with.
        weight: The weight's name in the float graph.
        widened: The weight, quantized and dequantized, ``[in, out]``.
    """

    add: Any
    side: int
    activation: str
    step: float
    weight: str
    widened: Any


@dataclass(frozen=True)
class Means:
    """Mean of an activation over tokens.

    Attributes:
        exact: Before rounding, ``[channels]``.
        rounded: After rounding to the steps of its range, ``[channels]``.
    """

    exact: NDArray[np.float64]
    rounded: NDArray[np.float64]


def input_means(
    quantized: Any,
    reference: Any,
    path: Path,
    samples: Sequence[Mapping[str, Any]],
    context: Context,
    known: Collection[str] = (),
) -> dict[str, Means]:
    """Measure the means of what the quantized products with a bias read.

    Args:
        quantized: The Q/DQ graph.
        reference: The float graph that it was made of, in which activations have the same names.
        path: What to call it in an error.
        samples: Batches of inputs without padding.
        context: Threads, and a folder for temporary files.
        known: Activations to leave out.

    Returns:
        Means by activation.
    """
    outputs = {name for node in reference.graph.node for name in node.output}.difference(known)
    steps = {item.activation: item.step for item in _products(quantized) if item.activation in outputs}
    if not steps:
        return {}
    sums: dict[str, Any] = dict.fromkeys(steps, 0.0)
    rounded: dict[str, Any] = dict.fromkeys(steps, 0.0)
    rows = dict.fromkeys(steps, 0)
    with (
        observation.every_value(reference, path, context, steps) as session,
        progress("correcting", len(samples)) as bar,
    ):
        for batch in samples:
            values = session.run(batch, steps)
            for name, step in steps.items():
                flat = values[name].reshape(-1, values[name].shape[-1])
                sums[name] += flat.sum(axis=0, dtype=np.float64)
                rounded[name] += np.rint(flat / np.float32(step)).sum(axis=0, dtype=np.float64) * step
                rows[name] += len(flat)
            bar.advance()
    return {name: Means(sums[name] / rows[name], rounded[name] / rows[name]) for name in steps}


def correct_biases(quantized: Any, reference: Any, means: Mapping[str, Means]) -> int:
    """Correct the biases of a Q/DQ graph in place.

    Layers that share a bias (ALBERT) each get their own: their inputs differ.

    Args:
        quantized: The Q/DQ graph.
        reference: The float graph that it was made of, in which weights have the same names.
        means: What :func:`input_means` measured.

    Returns:
        How many biases were corrected.
    """
    numpy_helper = require("onnx", "torch").numpy_helper
    weights = {tensor.name: tensor for tensor in reference.graph.initializer}
    products = [item for item in _products(quantized) if item.weight in weights and item.activation in means]
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for index, item in enumerate(products):
        mean = means[item.activation]
        bias = numpy_helper.to_array(constants[item.add.input[item.side]])
        lost = mean.exact @ numpy_helper.to_array(weights[item.weight]) - mean.rounded @ item.widened
        name = f"{item.add.input[item.side]}.corrected.{index}"
        quantized.graph.initializer.append(numpy_helper.from_array((bias + lost).astype(bias.dtype), name))
        item.add.input[item.side] = name
    _drop_unread(quantized, {name for node in quantized.graph.node for name in node.input})
    return len(products)


def _drop_unread(model: Any, names: Collection[str]) -> None:
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


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
            step=float(numpy_helper.to_array(constants[narrow.input[1]])),
            weight=weight.input[0].removesuffix(_SUFFIX),
            widened=matrix * scale.astype(np.float64),  # symmetric, one scale or one for each column
        )
