"""Tidies a graph that an exporter wrote: weights as matrix products read them, each once; no notes of the machine."""

from __future__ import annotations

from typing import Any

from toolchain.core.errors import require

#: Node attributes and names that only serve debugging; they hold source paths of the machine that exported.
_KEPT_METADATA = ("pkg.torch.onnx.fx_node",)


def store_transposed(model: Any) -> None:
    """Store each weight as its matrix product reads it, and equal weights once.

    1. ``Transpose(weight)`` becomes the transposed weight: quantizers look for a constant there.
    2. Initializers of equal bytes become one: folding has made a copy for every layer that shares the weight.
    """
    passes, ir = require("onnx_ir.passes.common", "torch"), require("onnx_ir", "torch")
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.const_value is None or len(source.const_value.shape) != 2:
            continue
        weight = ir.tensor(source.const_value.numpy().T.copy(), name=f"{source.name}.transposed")
        value = ir.Value(name=weight.name, type=source.type, shape=weight.shape, const_value=weight)
        if weight.name in model.graph.initializers:
            value = model.graph.initializers[weight.name]
        else:
            model.graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        model.graph.remove(node, safe=True)
    passes.RemoveUnusedNodesPass()(model)
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        if not array.flags.c_contiguous:  # folded as a transposed view, which the next pass cannot hash
            value.const_value = ir.tensor(array.copy(order="C"), name=value.name)
    passes.DeduplicateHashedInitializersPass(size_limit=2**40)(model)


def strip(model: Any) -> None:
    """Drop notes that hold paths of the machine that exported, and shapes of weights, which the weights hold too.

    Tools that change a weight leave the note as it is: ONNX Runtime's quantizer transposes the weight of a Gemm.
    """
    for weight in model.graph.initializers.values():
        weight.type = weight.shape = None
        weight.metadata_props.clear()
    for node in model.graph:
        for name in list(node.metadata_props):
            if name not in _KEPT_METADATA:
                del node.metadata_props[name]
        for value in node.outputs:
            value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
