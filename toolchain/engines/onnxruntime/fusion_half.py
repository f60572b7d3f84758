"""Prepares a half-precision graph for a runtime whose fused kernels read half precision: an NVIDIA GPU.

The pass ``fp16`` computes layer-norms and softmaxes in single precision and casts around each. The fused CUDA kernels
do as much inside: they read and write float16 and sum in fp32. So the casts around them must go before anything fuses:

1. ``Cast(LayerNorm(Cast(x)))`` of a half ``x`` becomes a layer-norm of ``x`` itself, with narrow scale and bias.
2. Casts around a softmax are looked through where attention is matched (``fusion``), and so is the power in a GELU.

What the pass kept in single precision because it overflows stays so: there is no cast to look through.
"""

from __future__ import annotations

from typing import Any

from toolchain.core.errors import require
from toolchain.engines.onnxruntime.nodes import initializer, made_by


def narrow_type(model: Any) -> str:
    """``FLOAT16`` or ``BFLOAT16`` where activations, and not just stored weights, are made so; else empty."""
    ir = require("onnx_ir", "torch")
    casts = [node for node in model.graph if node.op_type == "Cast" and node.inputs[0].const_value is None]
    made = {node.attributes.get_int("to", 0) for node in casts}
    return next((name for name in ("BFLOAT16", "FLOAT16") if ir.DataType[name] in made), "")


def narrow_norms(model: Any) -> int:
    """Rule 1 at every layer-norm of an ``onnx_ir.Model``, in place.

    Returns:
        How many were narrowed.
    """
    passes = require("onnx_ir.passes.common", "torch")
    types = _types(model)
    norms = [node for node in model.graph if node.op_type == "LayerNormalization" and node.inputs[0] is not None]
    count = sum(_narrow_norm(model.graph, node, types) for node in norms)
    if count:
        passes.RemoveUnusedNodesPass()(model)
    return count


def _narrow_norm(graph: Any, norm: Any, types: dict[Any, Any]) -> bool:
    ir = require("onnx_ir", "torch")
    half = ir.DataType.FLOAT16
    cast = made_by(norm.inputs[0], "Cast")
    weights = [value for value in norm.inputs[1:] if value is not None]
    if cast is None or types.get(cast.inputs[0]) != half or any(value.const_value is None for value in weights):
        return False
    output = norm.outputs[0]
    if len(norm.outputs) > 1 or output.is_graph_output():
        return False
    norm.replace_input_with(0, cast.inputs[0])
    for index, value in enumerate(norm.inputs):
        if index and value is not None:
            norm.replace_input_with(index, _narrow_weight(graph, value))
    output.type = ir.TensorType(half)
    types[output] = half
    for user, index in list(output.uses()):
        if user.op_type == "Cast" and user.attributes.get_int("to", 0) == half.value:
            ir.convenience.replace_all_uses_with(user.outputs[0], output)
            graph.remove(user, safe=True)
        else:
            user.replace_input_with(index, _widened(graph, norm, output))
    return True


def _widened(graph: Any, norm: Any, value: Any) -> Any:
    """The value in single precision again, for who reads it so; one Cast for all of them."""
    ir = require("onnx_ir", "torch")
    name = f"{value.name}.widened"
    for user, _ in value.uses():
        if user.op_type == "Cast" and user.outputs[0].name == name:
            return user.outputs[0]
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", ir.DataType.FLOAT.value)], name=name)
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_after(norm, node)
    return node.outputs[0]


def _narrow_weight(graph: Any, value: Any) -> Any:
    name = f"{value.name}.half"
    if name in graph.initializers:
        return graph.initializers[name]
    return initializer(graph, name, value.const_value.numpy().astype("float16"))


def float_cast(value: Any) -> Any:
    """What a Cast between float types reads, when one makes the value; else the value itself."""
    ir = require("onnx_ir", "torch")
    floats = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
    node = made_by(value, "Cast")
    if node is None or node.inputs[0].const_value is not None or node.attributes.get_int("to", 0) not in floats:
        return value
    source = made_by(node.inputs[0], "Cast")
    known = source.attributes.get_int("to", 0) if source is not None else node.inputs[0].dtype
    return node.inputs[0] if known is None or known in floats else value


def kind(value: Any, types: dict[Any, Any]) -> Any:
    """A value's element type, where it can be told."""
    return value.dtype if value.dtype is not None else types.get(value)


#: These give what their first input is.
_SAME = frozenset((
    "Add", "Concat", "Expand", "Flatten", "Gather", "Gelu", "Gemm", "Identity", "LayerNormalization", "MatMul", "Mul",
    "Relu", "Reshape", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
))  # fmt: skip


def _types(model: Any) -> dict[Any, Any]:
    """Element types of values, followed from inputs, constants and casts: the pass leaves none in the file."""
    ir = require("onnx_ir", "torch")
    found: dict[Any, Any] = {value: value.dtype for value in model.graph.inputs}
    found |= {value: value.dtype for value in model.graph.initializers.values()}
    for node in model.graph:
        if node.op_type == "Cast":
            known = ir.DataType(node.attributes.get_int("to", 0))
        elif node.op_type in _SAME and node.inputs and node.inputs[0] is not None:
            known = kind(node.inputs[0], found)
        else:
            continue
        for value in node.outputs:
            found[value] = known
    return found
