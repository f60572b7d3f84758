"""The layers of a built plan: which types of numbers each reads and writes, by what TensorRT says of the plan itself.

The engine inspector tells it in one line for each layer. It opens only where the plan can be loaded, which takes a
driver; the builder writes the same lines to its log when a plan is done, and those can be read on any machine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What begins the listing.
MARK = "LayerType: "

_LINE = re.compile(r"^\s*Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), (?P<rest>.*)$")
_PART = re.compile(r"(?:^|, )(Inputs|Constants|Outputs|TacticName|StreamId|Metadata|Weights|Bias): ?")
_TYPE = re.compile(r"(?:Format/)?Datatype: ([^,}\]]*)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")

#: Types by the names that the listing has for them, as graphs call them; the first that occurs is meant.
_TYPES = {
    "int8": "int8", "fp8": "fp8", "int4": "int4", "fp4": "fp4", "bfloat16": "bf16", "bf16": "bf16", "half": "fp16",
    "fp16": "fp16", "float": "fp32", "fp32": "fp32", "int64": "int64", "int32": "int32", "bool": "bool",
    "uint8": "uint8",
}  # fmt: skip

#: Types of weights and activations that products are computed in, the narrowest first.
NARROW = ("fp4", "int4", "fp8", "int8")
FLOATS = ("fp16", "bf16", "fp32")

#: Kinds of layers that compute matrix products; a fused one may be of several.
_PRODUCTS = ("gemm", "runtime_fusion", "mha", "fmha", "MatrixMultiply", "matmul", "fc")


@dataclass(frozen=True)
class Layer:
    """A layer of a plan.

    Attributes:
        name: Its name.
        kind: What computes it, e.g. ``gemm``, or ``kgen`` for a generated kernel of everything between products.
        inputs: Types that it reads.
        constants: Types of its weights.
        outputs: Types that it writes.
        nodes: Nodes of the ONNX graph that it stands for, or has a part of.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def is_product(self) -> bool:
        """Whether it computes matrix products."""
        return self.kind in _PRODUCTS

    @property
    def precision(self) -> str:
        """What it computes in: the narrowest type that a product reads, or the widest float that another touches."""
        if self.is_product:
            return next((kind for kind in (*NARROW, *FLOATS) if kind in self.inputs), "")
        types = [*self.inputs, *self.constants, *self.outputs]
        return next((kind for kind in FLOATS[::-1] if kind in types), types[0] if types else "")


def read(listing: str) -> list[Layer]:
    """The layers in what TensorRT says of a plan.

    Args:
        listing: Lines of ``LayerInformationFormat.ONELINE``; others among them are passed over.
    """
    found = []
    for line in listing.splitlines():
        match = _LINE.match(line)
        if match:
            parts = _parts(match["rest"])
            types = {part: _types(parts.get(part, "")) for part in ("Inputs", "Constants", "Weights", "Outputs")}
            nodes = tuple(_NODE.findall(parts.get("Metadata", "")))
            constants = types["Constants"] or types["Weights"]
            found.append(
                Layer(match["name"], match["kind"].strip(), types["Inputs"], constants, types["Outputs"], nodes)
            )
    return found


def describe(layers: Sequence[Layer], graph: Mapping[str, str]) -> dict[str, Any]:
    """What a plan computes in, in numbers.

    Args:
        layers: Its layers.
        graph: For each product of the ONNX graph with a quantized weight, its name and the weight's type.

    Returns:
        ``layers`` by precision; ``products``: layers that multiply matrices, by precision (one layer may hold several
        products of the graph, fused); ``int8_products``: products of the graph whose layer multiplies integers or FP8,
        and of how many; ``float_products``: the names of the others.
    """
    narrow = {node for layer in layers if layer.is_product and layer.precision in NARROW for node in layer.nodes}
    others = sorted(set(graph) - narrow)
    return {
        "layers": _counted(layer.precision for layer in layers if layer.precision),
        "products": _counted(layer.precision for layer in layers if layer.is_product),
        "int8_products": [len(graph) - len(others), len(graph)],
        "float_products": others,
    }


def quantized_products(model: Any) -> dict[str, str]:
    """Products of a graph that read a weight and an activation from Q/DQ pairs: their names, and the weight's type.

    Args:
        model: An ``onnx.ModelProto``.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    names = {3: "int8", 22: "int4", 17: "fp8"}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        sources = [_dequantized(name, made) for name in node.input[:2]]
        if all(source is not None for source in sources):
            weight = next((kinds[s.input[0]] for s in sources if s is not None and s.input[0] in kinds), None)
            if weight in names:
                found[node.name] = names[weight]
    return found


def _dequantized(name: str, made: Mapping[str, Any]) -> Any:
    """The DequantizeLinear that a value comes from, past transposes, reshapes and identities; None where none is."""
    node = made.get(name)
    while node is not None and node.op_type in ("Transpose", "Reshape", "Identity"):
        node = made.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _parts(rest: str) -> dict[str, str]:
    marks = [*_PART.finditer(rest)]
    ends = [*(mark.start() for mark in marks[1:]), len(rest)]
    return {mark[1]: rest[mark.end() : end] for mark, end in zip(marks, ends, strict=True)}


def _types(text: str) -> tuple[str, ...]:
    found = []
    for said in _TYPE.findall(text):
        words = re.findall(r"[a-z]+\d*", said.lower())
        found.append(next((kind for word, kind in _TYPES.items() if word in words), said.strip()))
    return tuple(found)


def _counted(precisions: Any) -> dict[str, int]:
    return dict(sorted(Counter(precisions).items()))
