"""What fp16 and bf16 share: which nodes keep single precision, and the casts between the two.

Half precision is for what costs time or bytes: matrix products, and what lies between them element by element. Single
precision stays where a narrow type loses the result: what exponentiates, sums or divides by small numbers, and every
node that was seen to read or give a number near the narrow type's largest.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.core.errors import ModelError, RecipeError, first_line, require
from toolchain.core.log import progress
from toolchain.core.stage import Context, Metrics
from toolchain.model import graph, tokens
from toolchain.optimize.shared import observation

#: Computed in half precision.
NARROW = frozenset(("Add", "Gelu", "Gemm", "MatMul", "Mul", "Relu", "Sub", "Tanh"))

#: These move numbers; they take the type that they are given.
MOVING = frozenset((
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
))  # fmt: skip

#: Passes that cast already.
PASSES = ("fp16", "bf16")

#: Texts in one run of the scan: every value of the graph is in memory at once.
_ROWS = 4

#: Weights of fewer numbers, and vectors, are not worth a Cast each when they are only stored.
_LEAST = 256


@dataclass(frozen=True)
class Kind:
    """A narrow type.

    Attributes:
        name: Of the pass.
        type: ``onnx_ir.DataType``'s name.
        largest: Largest finite number.
    """

    name: str
    type: str
    largest: float


def refusal(history: Sequence[str]) -> str | None:
    """Why a pass that needs single precision may not follow these, or None."""
    found = [name for name in history if name in PASSES]
    return f"it needs a float graph, and {found[0]} has narrowed it: put it before {found[0]}" if found else None


def convert(
    source: Path, out: Path, context: Context, kind: Kind, *, compute: bool, samples: int, headroom: float,
    exclude: Sequence[str],
) -> Metrics:  # fmt: skip
    """Writes ``model.onnx`` in half precision.

    Args:
        source: Folder with a graph of dialect ``standard``, its tokenizer and interface.
        out: Folder to write.
        context: Gives the training texts of the scan.
        kind: The narrow type.
        compute: Compute in it too; otherwise weights alone are narrow, and widened where they are read.
        samples: Texts to scan.
        headroom: A node keeps single precision when a number exceeds ``largest / headroom``.
        exclude: Names or shell patterns of nodes, or of weights, that keep single precision.

    Returns:
        half_weights and float_weights (matrices), casts, kept (nodes that overflow), largest (number below the limit).

    Raises:
        ModelError: The graph cannot be run or is narrow already.
        RecipeError: An exclusion matches nothing.
    """
    ir, onnx = require("onnx_ir", "torch"), require("onnx", "torch")
    path = source / "model.onnx"
    proto = graph.load(path)
    if any(tensor.data_type in (10, 16) for tensor in proto.graph.initializer):  # TensorProto.FLOAT16, BFLOAT16
        raise ModelError(f"{path} holds half-precision weights already", f"give {kind.name} the graph of export")
    excluded = _excluded(proto, exclude)
    # A weight that is stored narrow is widened before it meets a number: only its own magnitude counts.
    largest = magnitudes(proto, source, samples if compute else 0, context)
    model = ir.from_proto(proto)
    del proto
    limit = kind.largest / headroom
    kept = [node for node in model.graph if _exceeds(node, largest, limit) and node.op_type in NARROW | MOVING]
    work = _Narrowing(model, kind, frozenset(largest), excluded | {node.name for node in kept})
    if compute:
        work.compute()
    else:
        work.store()
    made = ir.to_proto(model)
    del made.graph.value_info[:]  # their types are those of before
    full = graph.size_bytes(made) <= graph.MAX_BYTES  # types are inferred within one file alone
    graph.save(made, out / "model.onnx")
    try:
        onnx.checker.check_model(str(out / "model.onnx"), full_check=full)
    except Exception as error:  # its classes share no public base
        raise ModelError(
            f"{path}: an operator of this graph does not take {kind.type.lower()}: {first_line(error)}",
            f"{kind.name}: {{exclude: [NODE]}} keeps the node in single precision",
        ) from error
    kinds = [t.data_type for t in made.graph.initializer if len(t.dims) > 1 and math.prod(t.dims) >= _LEAST]
    return {
        "half_weights": sum(kind in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16) for kind in kinds),
        "float_weights": kinds.count(onnx.TensorProto.FLOAT),
        "casts": sum(node.op_type == "Cast" for node in made.graph.node),
        "kept": [node.name for node in kept],
        "largest": max((value for value in largest.values() if value <= limit), default=0.0),
    }


def magnitudes(proto: Any, source: Path, samples: int, context: Context) -> dict[str, float]:
    """The largest |number| that every floating-point value took on training texts; inf where one was not finite.

    Args:
        proto: The graph.
        source: Folder with tokenizer and interface.
        samples: Texts to read, the first of the training split; 0 looks at the weights alone.
        context: Gives the texts.
    """
    onnx = require("onnx", "torch")
    found: dict[str, float] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            found[tensor.name] = _largest(onnx.numpy_helper.to_array(tensor))
    if not samples:
        return found
    encoded = tokens.encode(source, context.dataset().train.texts[:samples])
    with (
        observation.every_value(proto, source / "model.onnx", context) as values,
        progress("looking for overflow", len(encoded)) as bar,
    ):
        for start in range(0, len(encoded), _ROWS):
            rows = encoded[start : start + _ROWS]
            for name, value in values.run(tokens.padded(source, rows)).items():
                if value.dtype == np.float32:
                    found[name] = max(found.get(name, 0.0), _largest(value))
            bar.advance(len(rows))
    return found


def _largest(array: Any) -> float:
    if not array.size:
        return 0.0
    top = float(np.abs(array).max())
    return top if np.isfinite(top) else float("inf")


def _exceeds(node: Any, largest: Mapping[str, float], limit: float) -> bool:
    names = [value.name for value in (*node.inputs, *node.outputs) if value is not None]
    return any(largest.get(name, 0.0) > limit for name in names)


def _excluded(proto: Any, patterns: Sequence[str]) -> set[str]:
    """Names of the nodes that a pattern names, by their own name or by a weight that they read."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    found, unused = set(), set(patterns)
    for node in proto.graph.node:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
        names = [node.name, *(name for name in node.input if name in weights)]
        hit = {pattern for pattern in patterns if any(fnmatch.fnmatchcase(name, pattern) for name in names)}
        unused -= hit
        found |= {node.name} if hit else set()
    if unused:
        some = ", ".join(node.name for node in proto.graph.node if node.op_type in ("MatMul", "Gemm"))[:300]
        raise RecipeError(
            f"exclude: nothing in the graph matches {', '.join(sorted(unused))}", f"matrix products: {some} …"
        )
    return found


class _Narrowing:
    """The rewriting of one graph."""

    def __init__(self, model: Any, kind: Kind, floats: frozenset[str], skip: set[str]) -> None:
        self.ir = require("onnx_ir", "torch")
        self.graph, self.floats, self.skip = model.graph, floats, skip
        self.narrow_type, self.wide_type = self.ir.DataType[kind.type], self.ir.DataType.FLOAT
        self.suffix = kind.name
        self.narrow: set[Any] = set()
        self.casts: dict[tuple[Any, Any], Any] = {}

    def compute(self) -> None:
        """Nodes of NARROW compute in the narrow type, nodes of MOVING where what they move is narrow."""
        for node in list(self.graph):
            halved = node.name not in self.skip and (
                node.op_type in NARROW or (node.op_type in MOVING and self._moves_narrow(node))
            )
            halved = halved and any(value.name in self.floats for value in node.outputs)
            for index, value in enumerate(node.inputs):
                if value is not None and value.name in self.floats:
                    node.replace_input_with(index, self._as(value, halved, node))
            if halved:
                self.narrow |= set(node.outputs)
                for value in node.outputs:
                    value.type = self.ir.TensorType(self.narrow_type)
        self._widen_outputs()
        self._drop_unused()

    def store(self) -> None:
        """Weights are narrow; a lookup looks up first and widens what it found, others read the widened weight."""
        for node in list(self.graph):
            for index, value in enumerate(node.inputs):
                if value is None or not self._worth_narrowing(value) or node.name in self.skip:
                    continue
                if node.op_type != "Gather" or index:
                    node.replace_input_with(index, self._cast(self._weight(value), self.wide_type, node))
                    continue
                node.replace_input_with(0, self._weight(value))
                found = node.outputs[0]
                found.type = self.ir.TensorType(self.narrow_type)
                uses = list(found.uses())
                wide = self._cast(found, self.wide_type, node, after=True)
                for reader, place in uses:
                    reader.replace_input_with(place, wide)
        self._drop_unused()

    def _moves_narrow(self, node: Any) -> bool:
        first = node.inputs[0]
        return first in self.narrow or (first is not None and self._worth_narrowing(first))

    def _worth_narrowing(self, value: Any) -> bool:
        return (
            value.is_initializer()
            and value.name in self.floats
            and len(value.const_value.shape) > 1
            and value.const_value.size >= _LEAST
        )

    def _as(self, value: Any, narrow: bool, reader: Any) -> Any:
        if narrow:
            if value in self.narrow:
                return value
            return self._weight(value) if value.is_initializer() else self._cast(value, self.narrow_type, reader)
        return self._cast(value, self.wide_type, reader) if value in self.narrow else value

    def _weight(self, value: Any) -> Any:
        name = f"{value.name}.{self.suffix}"
        if name not in self.graph.initializers:
            array = value.const_value.numpy().astype(self.narrow_type.numpy())
            tensor = self.ir.Tensor(array, dtype=self.narrow_type, name=name)
            made = self.ir.Value(
                name=name, type=self.ir.TensorType(self.narrow_type), shape=tensor.shape, const_value=tensor
            )
            self.graph.register_initializer(made)
        return self.graph.initializers[name]

    def _cast(self, value: Any, to: Any, beside: Any, *, after: bool = False) -> Any:
        """The value in another type: one Cast for all readers, where the first of them stands."""
        if (value, to) not in self.casts:
            name = f"{value.name}.{'wide' if to == self.wide_type else self.suffix}"
            node = self.ir.Node("", "Cast", [value], [self.ir.AttrInt64("to", int(to))], name=name)
            node.outputs[0].name, node.outputs[0].type = name, self.ir.TensorType(to)
            (self.graph.insert_after if after else self.graph.insert_before)(beside, node)
            self.casts[value, to] = node.outputs[0]
        return self.casts[value, to]

    def _widen_outputs(self) -> None:
        """The graph's outputs keep name and type."""
        for index, value in enumerate(self.graph.outputs):
            if value in self.narrow:
                name = value.name
                value.name = f"{name}.{self.suffix}"
                wide = self._cast(value, self.wide_type, value.producer(), after=True)
                wide.name, wide.shape = name, value.shape
                self.graph.outputs[index] = wide

    def _drop_unused(self) -> None:
        for name in [name for name, value in self.graph.initializers.items() if not value.uses()]:
            del self.graph.initializers[name]
