"""Nodes that are quantized together: by layer and kind, found from the graph's structure and not from names.

Layer normalizations cut an encoder into blocks; one that holds a Softmax is a layer's attention, the one behind it is
the layer's FFN. Exporters rename weights, so names tell nothing; who stands between which normalizations stays.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

#: Kinds in the order in which a layer computes them.
KINDS = ("embeddings", "attention", "products", "ffn", "classifier")


def group_nodes(model: Any, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Splits nodes into groups: ``embeddings``, ``layer 0 attention``, ``layer 0 ffn``, …, ``classifier``.

    Nodes that read one weight are in one group, so that a weight is never stored twice: layers that share theirs are
    ``layers 0-11 attention``. ``products`` are those of two activations inside attention. In a graph whose layers
    cannot be told, each matrix is a group.

    Args:
        model: The graph, every node named; its nodes stand in topological order.
        names: The MatMul and Gather nodes to split.

    Returns:
        Node names by group, in the order of the graph.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    blocks = _blocks(model)
    attention = [blocks[node.output[0]] for node in model.graph.node if node.op_type == "Softmax"]
    told = bool(attention) and len(set(attention)) == len(attention)
    found: list[tuple[set[int], str, list[str], set[str]]] = []
    for node in model.graph.node:
        if node.name not in names:
            continue
        read = {name for name in node.input if name in weights}
        layer, kind = _place(node, blocks, attention, bool(read)) if told else (-1, node.name)
        layers, nodes = {layer}, [node.name]
        # Whatever has the same place, or reads the same weight, is one group with it.
        for other in [entry for entry in found if (layer in entry[0] and kind == entry[1]) or read & entry[3]]:
            found.remove(other)
            layers, kind, nodes, read = layers | other[0], other[1], [*other[2], *nodes], read | other[3]
        found.append((layers, kind, nodes, read))
    position = {node.name: index for index, node in enumerate(model.graph.node)}
    ordered = sorted((sorted(nodes, key=position.__getitem__), layers, kind) for layers, kind, nodes, _ in found)
    ordered.sort(key=lambda entry: position[entry[0][0]])
    return {_name(layers, kind): tuple(nodes) for nodes, layers, kind in ordered}


def _blocks(model: Any) -> Mapping[str, int]:
    """By value: how many layer normalizations stand before it, on the path that has most of them."""
    found: dict[str, int] = defaultdict(int)
    for node in model.graph.node:
        depth = max((found[name] for name in node.input if name), default=0)
        for name in node.output:
            found[name] = depth + (node.op_type == "LayerNormalization")
    return found


def _place(node: Any, blocks: Mapping[str, int], attention: list[int], has_weight: bool) -> tuple[int, str]:
    """The layer of a node, -1 outside of layers, and its kind."""
    block = max(blocks[name] for name in node.input if name)
    layer = bisect_right(attention, block) - 1
    if node.op_type == "Gather" or layer < 0:
        return -1, "embeddings"
    if block == attention[layer]:
        return layer, "attention" if has_weight else "products"
    last = layer == len(attention) - 1
    return (-1, "classifier") if last and block > attention[layer] + 1 else (layer, "ffn")


def _name(layers: Collection[int], kind: str) -> str:
    inside = sorted(layer for layer in layers if layer >= 0)
    if not inside:
        return kind
    several = len(inside) > 1
    return f"layers {inside[0]}-{inside[-1]} {kind}" if several else f"layer {inside[0]} {kind}"
