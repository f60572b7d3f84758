"""Weights in blocks of 4- or 8-bit numbers, as ONNX Runtime's MatMulNBits and GatherBlockQuantized read them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from toolchain.core.errors import ModelError, require

_DOMAIN = "com.microsoft"

#: MatMulNBits' accuracy_level: 4 rounds the activations to int8, 0 keeps them.
_LEVELS = {"int8": 4, "float": 0}


@dataclass(frozen=True)
class Blocks:
    """One quantized matrix.

    Attributes:
        kind: The operator that reads it.
        tensors: Packed numbers, scales and, unless symmetric, zero points, in the operator's order.
        attributes: The operator's attributes.
    """

    kind: str
    tensors: tuple[Any, ...]
    attributes: Mapping[str, int]

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        onnx = require("onnx", "torch")
        return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in self.tensors)


def linear(
    weights: Mapping[str, Any], *, bits: int, block_size: int, symmetric: bool, method: str, products: str
) -> dict[str, Blocks]:
    """Quantizes weights ``[in, out]`` with ONNX Runtime's quantizer, each once however many nodes read it.

    Args:
        weights: ``TensorProto`` by name.
        bits: 4 or 8.
        block_size: Weights along ``in`` that share a scale.
        symmetric: Without zero points.
        method: default, rtn, hqq or k_quant.
        products: int8 or float: what activations are multiplied as.

    Raises:
        ModelError: The quantizer left a weight as it was.
    """
    onnx, quantizers = require("onnx", "torch"), require("onnxruntime.quantization.matmul_nbits_quantizer", "cpu")
    helper = onnx.helper
    nodes: list[Any] = []
    inputs: list[Any] = []
    outputs: list[Any] = []
    for index, (name, tensor) in enumerate(weights.items()):
        nodes.append(helper.make_node("MatMul", [f"x{index}", name], [f"y{index}"], name=f"product{index}"))
        for made, letter, width in ((inputs, "x", tensor.dims[0]), (outputs, "y", tensor.dims[1])):
            made.append(helper.make_tensor_value_info(f"{letter}{index}", onnx.TensorProto.FLOAT, ["rows", width]))
    model = helper.make_model(
        helper.make_graph(nodes, "weights", inputs, outputs, list(weights.values())),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    settings = {
        "rtn": quantizers.RTNWeightOnlyQuantConfig,
        "k_quant": quantizers.KQuantWeightOnlyQuantConfig,
        "hqq": lambda: quantizers.HQQWeightOnlyQuantConfig(block_size=block_size, bits=bits),
        "default": lambda: None,
    }[method]()
    quantizer = quantizers.MatMulNBitsQuantizer(
        model, bits=bits, block_size=block_size, is_symmetric=symmetric, accuracy_level=_LEVELS[products],
        algo_config=settings,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # some methods print their progress
        quantizer.process()
    done = quantizer.model.model.graph
    tensors = {tensor.name: tensor for tensor in done.initializer}
    by_output = {node.output[0]: node for node in done.node}
    found = {}
    for index, name in enumerate(weights):
        node = by_output[f"y{index}"]
        if node.op_type != "MatMulNBits":
            raise ModelError(
                f"ONNX Runtime's quantizer left {name} {list(weights[name].dims)} as it was",
                f"weight_only: {{exclude: [{name}]}}, or another method",
            )
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        found[name] = Blocks(
            "MatMulNBits",
            _named(name, [onnx.numpy_helper.to_array(tensors[item]) for item in node.input[1:] if item]),
            attributes | {"accuracy_level": _LEVELS[products]},
        )
    return found


def table(tensor: Any, *, bits: int, block_size: int, symmetric: bool) -> Blocks:
    """Quantizes an embedding table, each row in blocks, rounding to nearest.

    With zero points: ``s = (max − min)/(2ᵇ − 1)`` over a block's numbers and 0, ``z = round(−min/s)``; symmetric:
    ``s = max|x|/(2ᵇ⁻¹ − 1)``, ``z = 2ᵇ⁻¹``.

    Args:
        tensor: ``TensorProto`` ``[rows, width]``.
        bits: 4 or 8.
        block_size: Numbers of a row that share a scale.
        symmetric: Without zero points.
    """
    onnx = require("onnx", "torch")
    values = onnx.numpy_helper.to_array(tensor)
    width = values.shape[1]
    count = -(-width // block_size)
    blocks = np.pad(values, ((0, 0), (0, count * block_size - width))).reshape(len(values), count, block_size)
    top = 2**bits - 1
    if symmetric:
        scale = np.abs(blocks).max(-1, keepdims=True) / (2 ** (bits - 1) - 1)
        zero = np.full_like(scale, 2 ** (bits - 1))
    else:
        low = np.minimum(blocks.min(-1, keepdims=True), 0)
        scale = (np.maximum(blocks.max(-1, keepdims=True), 0) - low) / top
        zero = np.round(-low / np.where(scale == 0, 1, scale))
    scale = np.where(scale == 0, 1, scale)  # a block of zeros
    numbers = np.clip(np.round(blocks / scale) + zero, 0, top).astype(np.uint8).reshape(len(values), -1)[:, :width]
    arrays = [_pack(numbers, bits), scale[..., 0].astype(np.float32)]
    if not symmetric:
        arrays.append(_pack(zero[..., 0].astype(np.uint8), bits))
    attributes = {"bits": bits, "block_size": block_size, "gather_axis": 0, "quantize_axis": 1}
    return Blocks("GatherBlockQuantized", _named(tensor.name, arrays), attributes)


def replace(model: Any, made: Mapping[str, Blocks]) -> None:
    """Lets the readers of each matrix read its blocks instead, and drops the matrix; in place.

    Args:
        model: The graph.
        made: The blocks by the matrix's name; only MatMul and Gather nodes read it.
    """
    onnx = require("onnx", "torch")
    nodes = []
    for node in model.graph.node:
        name = node.input[1] if node.op_type == "MatMul" else node.input[0] if node.op_type == "Gather" else ""
        if name not in made:
            nodes.append(node)
            continue
        blocks = made[name]
        packed, *rest = [tensor.name for tensor in blocks.tensors]
        inputs = [node.input[0], packed, *rest] if node.op_type == "MatMul" else [packed, node.input[1], *rest]
        nodes.append(
            onnx.helper.make_node(
                blocks.kind, inputs, list(node.output), name=node.name, domain=_DOMAIN, **blocks.attributes
            )
        )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in made]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.extend(tensor for blocks in made.values() for tensor in blocks.tensors)
    if not any(opset.domain == _DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))


def _pack(numbers: Any, bits: int) -> Any:
    """Two 4-bit numbers to a byte, the first in the lower half."""
    if bits == 8:
        return numbers
    even = np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2)))
    return even[:, ::2] | (even[:, 1::2] << 4)


def _named(name: str, arrays: list[Any]) -> tuple[Any, ...]:
    onnx = require("onnx", "torch")
    suffixes = ("packed", "scale", "zero_point")
    return tuple(
        onnx.numpy_helper.from_array(np.ascontiguousarray(array), f"{name}_{suffix}")
        for array, suffix in zip(arrays, suffixes, strict=False)
    )


def stored_bytes(bits: Literal[4, 8], block_size: int = 32, symmetric: bool = False) -> float:
    """Bytes of a weight, with its part of its block's scale, and of the zero point where there is one."""
    return (bits + 32 / block_size + (0 if symmetric else bits / block_size)) / 8
