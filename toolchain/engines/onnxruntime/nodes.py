"""Walking and changing an ``onnx_ir`` graph, as the lowering rules need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolchain.core.errors import require


def made_by(value: Any, operator: str) -> Any:
    """The node that makes a value, when it is of a kind; otherwise None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def only_user(value: Any, operator: str) -> Any:
    """The one node that reads a value, when it is of a kind; otherwise None."""
    users = [use.node for use in value.uses()]
    return users[0] if len(users) == 1 and users[0].op_type == operator else None


def permutation(node: Any) -> list[int]:
    """What a Transpose makes of the axes; empty when it reverses them."""
    found = node.attributes.get("perm")
    return list(found.as_ints()) if found is not None else []


def constant_array(value: Any) -> Any:
    """The array of a constant, or None."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def shaped_constant(value: Any) -> Any:
    """A constant with at least one axis, unread, or None."""
    held = value.const_value if value is not None else None
    return held if held is not None and len(held.shape) else None


def is_float(value: Any) -> bool:
    """Whether a value is a constant of floats."""
    held = value.const_value
    return held is not None and bool(held.dtype.is_floating_point())


def initializer(graph: Any, name: str, array: Any) -> Any:
    """Adds a constant to a graph and gives its value."""
    ir = require("onnx_ir", "torch")
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def new_node(
    operator: str, inputs: Sequence[Any], origin: Any, domain: str, *, outputs: int = 1, **attributes: Any
) -> Any:
    """A node without trailing empty inputs, named after the one that it replaces."""
    ir = require("onnx_ir", "torch")
    given = list(inputs)
    while given and given[-1] is None:
        given.pop()
    made = ir.convenience.convert_attributes(attributes)
    return ir.Node(
        domain, operator, given, made, num_outputs=outputs, name=f"{origin.name or origin.outputs[0].name}.fused"
    )


def replace(graph: Any, old: Any, new: Any) -> None:
    """Puts a node in the place of another: its first output takes over name, type and readers."""
    ir = require("onnx_ir", "torch")
    graph.insert_before(old, new)
    given, taken = old.outputs[0], new.outputs[0]
    taken.type, taken.shape = given.type, given.shape
    name = given.name
    ir.convenience.replace_all_uses_with(given, taken, replace_graph_outputs=True)
    graph.remove(old, safe=True)
    taken.name = name


def pair_behind(value: Any) -> tuple[Any, Any] | None:
    """Return the Q/DQ pair that alone reads a value, with one scale for all of it, or None."""
    before = only_user(value, "QuantizeLinear")
    after = only_user(before.outputs[0], "DequantizeLinear") if before is not None else None
    if after is None:
        return None
    scale = constant_array(after.inputs[1])
    return (before, after) if scale is not None and scale.size == 1 else None


def move_pair(pair: tuple[Any, Any], made: Any) -> None:
    """Put a copy of a Q/DQ pair of one scale, which rounds number by number, behind the operator that absorbed it."""
    ir = require("onnx_ir", "torch")
    readers = [(use.node, use.idx) for use in made.outputs[0].uses()]
    value, place = made.outputs[0], made
    for old in pair:
        node = ir.Node(
            "", old.op_type, [value, *old.inputs[1:]], list(old.attributes.values()), name=f"{made.name}.{old.op_type}"
        )
        node.outputs[0].type = old.outputs[0].type
        made.graph.insert_after(place, node)
        value, place = node.outputs[0], node
    value.shape = made.outputs[0].shape
    for node, index in readers:
        node.replace_input_with(index, value)
