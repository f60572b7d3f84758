"""Reads back what OpenVINO executed: in which precision, by which kernels, and what was fused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolchain.engines.openvino.ir import Expected

#: Layer types that compute nothing at run time.
_STILL = ("Const", "Input", "Parameter", "Output", "Result")

#: Types of node that compute a whole attention.
_ATTENTION = ("Subgraph", "MHA", "ScaledDotProductAttention", "SDPA")


@dataclass(frozen=True)
class Executed:
    """A node of the executed graph.

    Attributes:
        name: Its name.
        layer: What it computes, e.g. ``FullyConnected``.
        kernel: Which kernel, e.g. ``brgemm_avx512_amx_i8``: the instruction set and the precision are in its name.
        precision: What it computes in, e.g. ``u8``.
        origins: Names of the nodes of the IR that it stands for.
    """

    name: str
    layer: str
    kernel: str
    precision: str
    origins: tuple[str, ...]


def executed(compiled: Any) -> list[Executed]:
    """The nodes that a compiled model computed, those that constants alone decide left out.

    Args:
        compiled: An ``openvino.CompiledModel`` that has run once: kernels are chosen then.
    """
    found, still = [], set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        notes = node.get_rt_info()
        note = {key: notes[key].astype(str) for key in _NOTES if key in notes}
        name, layer = node.get_friendly_name(), note.get("layerType", "")
        sources = [item.get_source_output().get_node().get_friendly_name() for item in node.inputs()]
        if layer in _STILL or (sources and all(source in still for source in sources)):
            if layer not in ("Input", "Parameter"):
                still.add(name)
            continue
        origins = tuple(note.get("originalLayersNames", "").split(","))
        found.append(Executed(name, layer, note.get("primitiveType", ""), note.get("runtimePrecision", ""), origins))
    return found


_NOTES = ("layerType", "primitiveType", "runtimePrecision", "originalLayersNames")


def is_int8(node: Executed) -> bool:
    """Whether a node multiplies 8-bit integers.

    Its kernel tells; its precision does not, being i8 also where int8 weights are widened to float before the product.
    """
    return node.kernel.lower().endswith(("_i8", "_u8"))


def count_int8(nodes: Sequence[Executed]) -> int:
    """How many products with weights ran in 8-bit integers."""
    return sum(node.layer == "FullyConnected" and is_int8(node) for node in nodes)


def describe(nodes: Sequence[Executed], expected: Expected, precision: str, attention: str) -> dict[str, Any]:
    """What was executed, in numbers.

    Args:
        nodes: The executed nodes.
        expected: What the source graph has.
        precision: What float operators were asked to compute in.
        attention: ``fused`` or ``plain``, as it was asked for.

    Returns:
        ``fusion``: by kind, found and expected, where ``attention`` is left out when plain products were chosen because
        they are quicker. ``precision``: ``hint``, ``nodes`` by precision, ``int8_products`` found and expected, and
        ``kernels``: products with weights by kernel.
    """
    products = [node for node in nodes if node.layer == "FullyConnected"]
    fusion = {
        "layer_norm": [sum(node.layer == "MVN" for node in nodes), expected.layer_norm],
        "gelu": [_absorbed(nodes, ("FullyConnected",), "Gelu"), expected.gelu],
    }
    if attention == "fused":
        fusion["attention"] = [_absorbed(nodes, _ATTENTION, "Softmax"), expected.attention]
    return {
        "fusion": {kind: counted for kind, counted in fusion.items() if counted[1]},
        "precision": {
            "hint": precision,
            "nodes": dict(sorted(Counter(node.precision for node in nodes).items())),
            "int8_products": [count_int8(nodes), expected.int8_products],
            "kernels": dict(sorted(Counter(node.kernel for node in products).items())),
        },
    }


def _absorbed(nodes: Sequence[Executed], layers: Sequence[str], kind: str) -> int:
    """How many operators of a kind were computed as a part of nodes of other kinds."""
    origins = [origin for node in nodes if node.layer in layers for origin in node.origins]
    return len({origin for origin in origins if origin.startswith(f"{kind}.")})
