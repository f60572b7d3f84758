"""Q/DQ pairs as ONNX Runtime's integer kernels want them; the same numbers, up to rounding and what a range cuts off.

1. Int8 activations become uint8: ``s·q = s·((q + 128) − 128)``. Without AVX-VNNI-INT8, x86 has no fast product of two
   signed operands; ONNX Runtime would turn the weights back into floats at every run.
2. ``DQ(q)·DQ(W) + b``, as MatMul or as Gemm, becomes one ``MatMulIntegerToFloat(q, W) + b``: integer product, scales,
   and bias in one pass. ONNX Runtime's own rule wants each quantized activation read once, and leaves query, key and
   value in floats.
3. What reads a Q/DQ pair and is no product of weights (residual, layer-norm) reads the float before the pair, which the
   pair rounds, and cuts off where it is beyond the calibrated range.
4. A lookup in a quantized table looks up first: ``Gather(DQ(W), i) = DQ(Gather(W, i))``, with one scale per table or
   per column; with one per row, ``Cast(Gather(W, i))·Gather(s, i)``. Otherwise every run turns the
   whole table into floats.
5. Int4 weights are multiplied as int8. They stand packed in the file, and are widened when it is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.core.errors import require
from toolchain.engines.onnxruntime.nodes import initializer, new_node, replace

MICROSOFT = "com.microsoft"

#: Ends the name of a matrix that was int4.
_NARROW = ".was_int4"


def lower(model: Any) -> int:
    """Applies every rule in place.

    Args:
        model: An ``onnx_ir.Model`` with Q/DQ pairs.

    Returns:
        How many places were rewritten.
    """
    passes = require("onnx_ir.passes.common", "torch")
    graph = model.graph
    kinds = {node.op_type for node in graph}
    if not kinds & {"QuantizeLinear", "DequantizeLinear"}:
        return 0
    _widen(graph)
    count = _unsigned_activations(graph)
    count += sum(_lookup_first(graph, node) for node in list(graph) if node.op_type == "Gather")
    for node in list(graph):
        if node.op_type == "Gemm":
            _as_matmul(graph, node)
    count += sum(_integer_product(graph, node) for node in list(graph) if node.op_type == "MatMul")
    passes.RemoveUnusedNodesPass()(model)
    count += sum(_unrounded(node) for node in list(graph) if node.op_type == "DequantizeLinear")
    if count:
        graph.opset_imports.setdefault(MICROSOFT, 1)
        passes.RemoveUnusedNodesPass()(model)
    return count


def pack(path: Path) -> bool:
    """Packs the matrices of a file that were int4 before :func:`lower`, to be widened when the file is loaded.

    Args:
        path: What ONNX Runtime saved of the lowered graph; it would have widened them in the file.

    Returns:
        Whether there were any.
    """
    ir = require("onnx_ir", "torch")
    model = ir.load(path)
    graph = model.graph
    found = [value for name, value in graph.initializers.items() if _NARROW in name and len(value.shape) == 2]
    for value in found:
        packed = initializer(graph, f"{value.name}.packed", value.const_value.numpy().astype(_int4()))
        cast = ir.Node("", "Cast", [packed], [ir.AttrInt64("to", ir.DataType.INT8.value)])
        graph.insert_before(graph[0], cast)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.INT8, value.shape
        del graph.initializers[value.name]
    if found:
        beside = path.with_name(f"{path.name}.data")
        ir.save(model, path, external_data=beside.name if beside.is_file() else None)
    return bool(found)


def _int4() -> Any:
    return require("ml_dtypes", "torch").int4


def _widen(graph: Any) -> None:
    """Writes int4 constants as int8, which the rules know, under names that tell."""
    import numpy as np

    ir = require("onnx_ir", "torch")
    for name, value in list(graph.initializers.items()):
        if value.const_value is not None and value.const_value.dtype == ir.DataType.INT4:
            wide = initializer(graph, f"{name}{_NARROW}", value.const_value.numpy().astype(np.int8))
            ir.convenience.replace_all_uses_with(value, wide)
            del graph.initializers[name]


def _unsigned_activations(graph: Any) -> int:
    """Rule 1."""
    import numpy as np

    ir = require("onnx_ir", "torch")
    made: dict[Any, Any] = {}
    count = 0
    for node in list(graph):
        if node.op_type != "QuantizeLinear" or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        zero, after = node.inputs[2], [use.node for use in node.outputs[0].uses()]
        if zero.const_value is None or zero.const_value.dtype != ir.DataType.INT8 or not after:
            continue
        wide = [user for user in after if user.op_type == "DequantizeLinear" and len(user.inputs) > 2]
        if len(wide) < len(after) or any(user.inputs[2] is not zero for user in wide):
            continue
        if zero not in made:
            shifted = (zero.const_value.numpy().astype(np.int16) + 128).astype(np.uint8)
            made[zero] = initializer(graph, f"{zero.name}.unsigned", shifted)
        for changed in (node, *after):
            changed.replace_input_with(2, made[zero])
        node.outputs[0].dtype = ir.DataType.UINT8
        count += 1
    return count


def _lookup_first(graph: Any, gather: Any) -> bool:
    """Rule 4 at one Gather."""
    ir = require("onnx_ir", "torch")
    widened = gather.inputs[0].producer()
    if widened is None or widened.op_type != "DequantizeLinear" or len(gather.inputs[0].uses()) > 1:
        return False
    table, scale = widened.inputs[0].const_value, widened.inputs[1].const_value
    if table is None or len(table.shape) != 2 or scale is None or gather.attributes.get_int("axis", 0):
        return False
    axis = widened.attributes.get_int("axis", 1) % 2
    if widened.attributes.get_int("block_size", 0) or (scale.size > 1 and scale.size != table.shape[axis]):
        return False
    narrow = ir.Node("", "Gather", [widened.inputs[0], gather.inputs[1]])
    graph.insert_before(gather, narrow)
    if scale.size == 1 or axis == 1:
        # The result's rank is the indices' and one more; its last axis is the table's.
        attributes = [ir.AttrInt64("axis", -1)] if scale.size > 1 else []
        replace(graph, gather, ir.Node("", "DequantizeLinear", [narrow.outputs[0], *widened.inputs[1:]], attributes))
        return True
    zero = widened.inputs[2] if len(widened.inputs) > 2 else None
    if zero is not None and (zero.const_value is None or zero.const_value.numpy().any()):
        graph.remove(narrow, safe=True)
        return False
    column = f"{widened.inputs[1].name}.column"
    scales = graph.initializers.get(column)
    if scales is None:
        scales = initializer(graph, column, scale.numpy().reshape(-1, 1))
    wide = ir.Node("", "Cast", [narrow.outputs[0]], [ir.AttrInt64("to", ir.DataType.FLOAT.value)])
    steps = ir.Node("", "Gather", [scales, gather.inputs[1]])
    for node in (wide, steps):
        graph.insert_before(gather, node)
    replace(graph, gather, ir.Node("", "Mul", [wide.outputs[0], steps.outputs[0]]))
    return True


def _as_matmul(graph: Any, gemm: Any) -> None:
    """Writes a Gemm of int8 weights as MatMul and Add, which rule 2 takes."""
    import numpy as np

    activation, weight = (value.producer() for value in gemm.inputs[:2])
    if any(node is None or node.op_type != "DequantizeLinear" for node in (activation, weight)):
        return
    factors = [gemm.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    matrix, scale = weight.inputs[0].const_value, weight.inputs[1].const_value
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if matrix is None or scale is None or factors != [1.0, 1.0] or gemm.attributes.get_int("transA", 0):
        return
    axis = weight.attributes.get_int("axis", 1) % 2
    turns = bool(gemm.attributes.get_int("transB", 0))
    if scale.size > 1 and axis == int(turns):
        return  # a scale for each input, which no integer product takes
    if turns:
        name = f"{weight.inputs[0].name}.transposed"
        constant = graph.initializers.get(name)
        if constant is None:
            constant = initializer(graph, name, np.ascontiguousarray(matrix.numpy().T))
        inputs, axis = [constant, *weight.inputs[1:]], 1 - axis
    else:
        inputs = list(weight.inputs)
    wide = new_node("DequantizeLinear", inputs, weight, "", axis=axis)
    product = new_node("MatMul", [gemm.inputs[0], wide.outputs[0]], gemm, "")
    graph.insert_before(gemm, wide)
    if bias is None:
        replace(graph, gemm, product)
        return
    graph.insert_before(gemm, product)
    replace(graph, gemm, new_node("Add", [product.outputs[0], bias], gemm, ""))


def _integer_product(graph: Any, product: Any) -> bool:
    """Rule 2 at one MatMul."""
    ir = require("onnx_ir", "torch")
    activation, weight = (value.producer() for value in product.inputs)
    if any(node is None or node.op_type != "DequantizeLinear" for node in (activation, weight)):
        return False
    if activation.inputs[0].const_value is not None or not _is_matrix_by_column(weight):
        return False
    quantized = activation.inputs[0]
    if activation.inputs[1].const_value is None or activation.inputs[1].const_value.size != 1:
        return False
    zeros = [node.inputs[2] if len(node.inputs) > 2 else None for node in (activation, weight)]
    if any(zero is not None and zero.const_value is None for zero in zeros):
        return False
    if zeros[0] is not None and zeros[0].const_value.dtype != ir.DataType.UINT8:
        return False
    last, bias = product, None
    users = [use.node for use in product.outputs[0].uses()]
    if len(users) == 1 and users[0].op_type == "Add":
        other = next((value for value in users[0].inputs if value is not product.outputs[0]), None)
        width = weight.inputs[0].const_value.shape[1]
        if other is not None and other.const_value is not None and list(other.const_value.shape) == [width]:
            last, bias = users[0], other
    weights = [weight.inputs[0], activation.inputs[1], weight.inputs[1]]
    if zeros[1] is not None and not zeros[1].const_value.numpy().any() and bias is None:
        zeros[1] = None  # symmetric weights need none
    inputs = [quantized, *weights, *zeros, bias]
    replace(graph, last, new_node("MatMulIntegerToFloat", inputs, product, MICROSOFT))
    return True


def _unrounded(dequantize: Any) -> bool:
    """Rule 3 at one DequantizeLinear that a pair ends with; products have taken what they read."""
    ir = require("onnx_ir", "torch")
    quantize = dequantize.inputs[0].producer()
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return False
    users = [use.node for use in dequantize.outputs[0].uses()]
    if not users or any(user.op_type in ("MatMul", "Gemm") for user in users):
        return False
    ir.convenience.replace_all_uses_with(dequantize.outputs[0], quantize.inputs[0])
    return True


def _is_matrix_by_column(weight: Any) -> bool:
    """Whether a DequantizeLinear widens a constant matrix with one scale, or one scale per column."""
    matrix, scale = weight.inputs[0].const_value, weight.inputs[1].const_value
    if matrix is None or scale is None or len(matrix.shape) != 2:
        return False
    by_column = scale.size == matrix.shape[1] and weight.attributes.get_int("axis", 1) in (1, -1)
    return bool(scale.size == 1 or (by_column and not weight.attributes.get_int("block_size", 0)))
