"""Moves the selection of one token up through a graph: ``op(x)[k] = op(x[k])`` where rows do not mix.

Three steps. (1) From each read of a single token upwards, find the values that could be computed for that token alone:
``operands`` knows, per operator, which slice of which inputs gives a slice of the output. (2) Among them, find those
that somebody needs in full (keys and values; residuals of the layer below): there the selection stops, with a Slice.
(3) Make the narrow nodes, and drop what nobody reads any more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolchain.core.errors import require
from toolchain.optimize.shared.observation import Observed

#: One input, element by element.
UNARY = frozenset((
    "Abs", "Cast", "Ceil", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "Identity", "IsInf", "IsNaN", "LeakyRelu",
    "Log", "Neg", "Not", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softplus", "Sqrt", "Tanh",
))  # fmt: skip

#: Several inputs, element by element, broadcast to each other.
BROADCAST = frozenset((
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or",
    "Pow", "Sub", "Where", "Xor",
))  # fmt: skip

#: Along one axis or the last ones; the others do not mix.
NORMALIZING = frozenset(("LayerNormalization", "LogSoftmax", "Softmax"))

REDUCING = frozenset(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"))


@dataclass(frozen=True)
class Read:
    """A node that reads one token.

    Attributes:
        node: Gather or Slice.
        axis: The axis of its first input that counts tokens.
        token: Which token.
    """

    node: Any
    axis: int
    token: int


def narrow(model: Any, reads: list[Read], observed: Observed) -> list[Any]:
    """Rewrites a graph in place so that what only the read tokens need is computed for them alone.

    Args:
        model: ``onnx_ir.Model``.
        reads: The nodes that read single tokens.
        observed: Shapes of its values.

    Returns:
        The narrow nodes that replaced others.
    """
    passes = require("onnx_ir.passes.common", "torch")
    work = [_Narrowing(model, [read for read in reads if read.token == token], observed) for token in
            dict.fromkeys(read.token for read in reads)]  # fmt: skip
    made = [node for one in work for node in one.rewrite()]
    passes.RemoveUnusedNodesPass()(model)
    passes.TopologicalSortPass()(model)
    return made


class _Narrowing:
    """The rewriting for one token."""

    def __init__(self, model: Any, reads: list[Read], observed: Observed) -> None:
        self.ir = require("onnx_ir", "torch")
        self.graph, self.reads, self.observed = model.graph, reads, observed
        self.token = reads[0].token
        self.roots = {read.node for read in reads}
        #: Values that could be narrow, each with its axes that count tokens.
        self.reached: dict[Any, set[int]] = {}
        self.full: dict[Any, bool] = {}
        self.narrowed: dict[tuple[Any, int], Any] = {}
        self.made: list[Any] = []
        self.before: Any = None

    def rewrite(self) -> list[Any]:
        for read in self.reads:
            self._reach(read.node.inputs[0], read.axis)
        for node in reversed(list(self.graph)):  # readers first: a deep encoder is no deep recursion
            for value in node.outputs:
                self._needed_in_full(value)
        for read in self.reads:
            self.before = read.node
            value = self._narrow(read.node.inputs[0], read.axis)
            if read.node.op_type == "Slice":
                self.ir.convenience.replace_all_uses_with(read.node.outputs[0], value, replace_graph_outputs=True)
                continue
            zero = np.zeros([1] * len(self.observed.shapes[read.node.inputs[1].name]), dtype=np.int64)
            read.node.replace_input_with(0, value)
            read.node.replace_input_with(1, self._constant(f"first.{zero.ndim}", zero))
        self._restore_shapes()
        return self.made

    def _reach(self, value: Any, axis: int) -> None:
        pending = [(value, axis)]
        while pending:
            value, axis = pending.pop()
            inputs = operands(value.producer(), axis, self.observed) if value.producer() is not None else None
            if inputs is None or axis in self.reached.get(value, ()):
                continue
            self.reached.setdefault(value, set()).add(axis)
            pending += [(value.producer().inputs[index], where) for index, where in inputs.items()]

    def _needed_in_full(self, value: Any) -> bool:
        """Whether anything reads more of a value than the one token (a Shape does not: see ``_restore_shapes``)."""
        if value not in self.full:
            self.full[value] = value.is_graph_output() or any(
                self._reads_all(node, index, value) for node, index in value.uses()
            )
        return self.full[value]

    def _reads_all(self, node: Any, index: int, value: Any) -> bool:
        if (node in self.roots and index == 0) or node.op_type == "Shape":
            return False
        output = node.outputs[0]
        if output not in self.reached or self._needed_in_full(output):
            return True
        return any(
            (operands(node, axis, self.observed) or {}).get(index) not in self.reached.get(value, ())
            for axis in self.reached[output]
        )

    def _narrow(self, value: Any, axis: int) -> Any:
        """The value at the token alone; the axis stays, with length 1."""
        key = (value, axis)
        if key not in self.narrowed:
            stop = value not in self.reached or axis not in self.reached[value] or self._needed_in_full(value)
            self.narrowed[key] = self._slice(value, axis) if stop else self._again(value.producer(), axis)
        return self.narrowed[key]

    def _slice(self, value: Any, axis: int) -> Any:
        last = np.iinfo(np.int64).max if self.token == -1 else self.token + 1
        bounds = [
            self._constant(f"{name}.{number}", np.array([number], dtype=np.int64))
            for name, number in (("start", self.token), ("end", last), ("axis", axis))
        ]
        return self._node("Slice", [value, *bounds], f"{value.name}.token", value)

    def _again(self, node: Any, axis: int) -> Any:
        """The same node, reading the token alone."""
        inputs = list(node.inputs)
        for index, where in (operands(node, axis, self.observed) or {}).items():
            inputs[index] = self._narrow(inputs[index], where)
        if node.op_type in ("Reshape", "Expand"):
            inputs[1] = self._one_at(inputs[1], axis)
        value = self._node(
            node.op_type, inputs, f"{node.outputs[0].name}.token", node.outputs[0], list(node.attributes.values())
        )
        value.producer().metadata_props.update(node.metadata_props)
        self.made.append(value.producer())
        return value

    def _one_at(self, target: Any, axis: int) -> Any:
        """A target shape with 1 in the place of the tokens."""
        numbers = integers(target)
        if numbers is not None:
            changed = np.array([*numbers[:axis], 1, *numbers[axis + 1 :]], dtype=np.int64)
            return self._constant(".".join(map(str, ("shape", *changed))).replace("-", "m"), changed)
        one = self._constant("one", np.array([1], dtype=np.int64))
        key = (target, axis)
        if key not in self.narrowed:
            parts, made = target.producer().inputs if target.producer() is not None else [], f"{target.name}.token"
            (rank,) = self.observed.shapes[target.name]
            if target.producer() is not None and target.producer().op_type == "Concat" and len(parts) == rank[0]:
                parts = [*parts[:axis], one, *parts[axis + 1 :]]
            else:
                parts = [self._take(target, range(axis)), one, self._take(target, range(axis + 1, rank[0]))]
            self.narrowed[key] = self._node(
                "Concat", [p for p in parts if p is not None], made, target, [_int("axis", 0)]
            )
        return self.narrowed[key]

    def _take(self, shape: Any, places: range) -> Any:
        """The elements of a shape at these places, or None when there are none."""
        if not places:
            return None
        name = ".".join(map(str, ("places", *places)))
        index = self._constant(name, np.array(places, dtype=np.int64))
        return self._node("Gather", [shape, index], f"{shape.name}.{name}", shape, [_int("axis", 0)])

    def _restore_shapes(self) -> None:
        """Lets every Shape of a value that is narrow now say what it said: the tokens are counted at the input."""
        for (value, axis), small in list(self.narrowed.items()):
            if small is None or value not in self.reached or self._needed_in_full(value):
                continue
            for node, _ in list(value.uses()):
                if node.op_type != "Shape" or len(self.reached[value]) > 1:
                    continue
                rank = len(self.observed.shapes[value.name])
                wanted = range(rank)[attribute(node, "start", 0) : attribute(node, "end", rank)]
                ids = next(item for item in self.graph.inputs if item.name == "input_ids")
                whole = self._node("Shape", [small], f"{node.outputs[0].name}.token", node.outputs[0])
                parts = [self._take(whole, range(wanted.start, min(axis, wanted.stop)))]
                if axis in wanted:
                    shape = self._node("Shape", [ids], f"{node.outputs[0].name}.input", node.outputs[0])
                    parts += [self._take(shape, range(1, 2)), self._take(whole, range(axis + 1, wanted.stop))]
                else:
                    parts += [self._take(whole, range(max(axis + 1, wanted.start), wanted.stop))]
                kept = [part for part in parts if part is not None]
                joined = self._node("Concat", kept, f"{node.outputs[0].name}.whole", node.outputs[0], [_int("axis", 0)])
                self.ir.convenience.replace_all_uses_with(node.outputs[0], joined)

    def _node(self, kind: str, inputs: list[Any], name: str, like: Any, attributes: Any = ()) -> Any:
        node = self.ir.Node("", kind, inputs, attributes, name=name)
        node.outputs[0].name, node.outputs[0].type = name, like.type
        self.graph.insert_before(self.before, node)
        return node.outputs[0]

    def _constant(self, name: str, array: Any) -> Any:
        name = f"token.{name}".replace("-", "m")
        if name not in self.graph.initializers:
            tensor = self.ir.tensor(array, name=name)
            value = self.ir.Value(
                name=name, type=self.ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
            )
            self.graph.register_initializer(value)
        return self.graph.initializers[name]


def operands(node: Any, axis: int, observed: Observed) -> dict[int, int] | None:
    """Which slices of its inputs give a slice of a node's output.

    Args:
        node: The node, with one output that matters.
        axis: An axis of that output, counted from 0.
        observed: Shapes of all values.

    Returns:
        Input index → axis to slice there; inputs that are not named are read in full. None when the output's slices
        mix all of an input's, or the operator is not known.
    """
    if node.domain not in ("", "ai.onnx") or any(value.uses() for value in node.outputs[1:]):
        return None
    kind, shape = node.op_type, observed.shapes[node.outputs[0].name]
    inputs = [observed.shapes.get(value.name) if value is not None else None for value in node.inputs]
    if kind in UNARY:
        return {0: axis}
    if kind in BROADCAST:
        return _broadcast(range(len(inputs)), inputs, axis - len(shape))
    if kind in NORMALIZING:
        return {0: axis} if axis < attribute(node, "axis", -1) % len(shape) else None
    if kind in REDUCING:
        axes = integers(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
        kept = attribute(node, "keepdims", 1) and axes and axis not in [a % len(shape) for a in axes]
        return {0: axis} if kept else None
    if kind == "Transpose":
        return {0: attribute(node, "perm", list(range(len(shape)))[::-1])[axis]}
    if kind == "MatMul":
        return _product(inputs, axis, len(shape))
    if kind == "Expand":
        return _broadcast(range(1), inputs, axis - len(shape))
    if kind == "Reshape":
        return _regrouped(inputs[0], shape, axis, integers(node.inputs[1]))
    return None


def _broadcast(which: range, shapes: list[Any], axis: int) -> dict[int, int]:
    """Inputs that have the axis (negative: counted from the right) with more than one element."""
    found = {}
    for index in which:
        shape = shapes[index]
        if shape is not None and len(shape) >= -axis and max(shape[axis]) > 1:
            found[index] = len(shape) + axis
    return found


def _product(shapes: list[Any], axis: int, rank: int) -> dict[int, int] | None:
    left, right = shapes
    if min(len(left), len(right)) < 2:
        return None
    if axis == rank - 2:
        return {0: len(left) - 2}
    if axis == rank - 1:
        return {1: len(right) - 1}
    return _broadcast(range(2), shapes, axis - rank)


def _regrouped(source: Any, shape: Any, axis: int, target: list[int] | None) -> dict[int, int] | None:
    """The input's axis that passes through a Reshape unchanged: same size, and as many elements before it."""
    if source is None or (target is not None and 0 in target):  # a 0 copies from a place that may be narrow by then
        return None
    runs = range(len(shape[axis]))
    before = [math.prod(dimension[run] for dimension in shape[:axis]) for run in runs]
    for index, dimension in enumerate(source):
        if dimension == shape[axis] and before == [math.prod(d[run] for d in source[:index]) for run in runs]:
            return {0: index}
    return None


def integers(value: Any) -> list[int] | None:
    """The elements of a constant integer tensor, or None when it is computed."""
    ir = require("onnx_ir", "torch")
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return [int(number) for number in np.atleast_1d(tensor.numpy()).ravel()] if tensor is not None else None


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute's value, or the default."""
    found = node.attributes.get(name)
    return found.value if found is not None else default


def _int(name: str, value: int) -> Any:
    ir = require("onnx_ir", "torch")
    return ir.AttrInt64(name, value)
