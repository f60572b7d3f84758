"""How much of a graph there is to fuse, and how much was: what the fusion gate compares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from toolchain.engines.onnxruntime.nodes import constant_array, made_by

#: The constants of a GELU may be off by rounding.
TOLERANCE = 1e-3

#: The fused operators that fulfil each expectation.
FUSED = {
    "attention": ("Attention", "MultiHeadAttention", "QAttention", "GroupQueryAttention"),
    "layer_norm": ("SkipLayerNormalization", "EmbedLayerNormalization", "LayerNormalization"),
    "gelu": ("Gelu", "BiasGelu", "FastGelu", "QuickGelu"),
    "embed_layer_norm": ("EmbedLayerNormalization",),
    "residual": ("SkipLayerNormalization", "EmbedLayerNormalization"),
}


def expected(model: Any) -> dict[str, int]:
    """What a complete fusion of this unfused graph has, counted from operators that stand for one of a kind each.

    Args:
        model: An ``onnx_ir.Model`` before fusion.

    Returns:
        Numbers of ``attention``, ``layer_norm``, ``gelu``, ``embed_layer_norm``, and of layer-norms of a ``residual``.
    """
    kinds = [(node.op_type, node) for node in model.graph]
    attention = sum(kind == "Softmax" and _feeds(node, "MatMul", 3) for kind, node in kinds)
    attention += sum(kind in FUSED["attention"] for kind, _ in kinds)
    norms = [node for kind, node in kinds if kind == "LayerNormalization" or _is_spelled_norm(node)]
    fused = sum(kind in ("SkipLayerNormalization", "EmbedLayerNormalization") for kind, _ in kinds)
    gelus = sum(kind in ("Erf", *FUSED["gelu"]) or is_tanh_gelu(node) for kind, node in kinds)
    embeds = sum(kind == "EmbedLayerNormalization" for kind, _ in kinds)
    embeds += sum(embedding_tables(node.inputs[0]) is not None for node in norms if node.op_type != "Sqrt")
    residual = sum(residual_sum(node.inputs[0]) is not None for node in norms if node.op_type != "Sqrt")
    return {
        "attention": attention,
        "layer_norm": len(norms) + fused,
        "gelu": gelus,
        "embed_layer_norm": embeds,
        "residual": residual + fused,
    }


def found(ran: Mapping[str, int]) -> dict[str, int]:
    """What is fused among operators, given how many there are of each: the counterpart of :func:`expected`."""
    return {kind: sum(ran.get(operator, 0) for operator in operators) for kind, operators in FUSED.items()}


def _feeds(node: Any, operator: str, steps: int) -> bool:
    """Whether a result reaches an operator within some steps."""
    after = [use.node for output in node.outputs for use in output.uses()]
    return any(user.op_type == operator or (steps > 1 and _feeds(user, operator, steps - 1)) for user in after)


def _is_spelled_norm(node: Any) -> bool:
    """Whether a Sqrt is that of a layer-norm in small operators: ``x / sqrt(mean(x²) + ε)``."""
    added = made_by(node.inputs[0], "Add") if node.op_type == "Sqrt" else None
    return added is not None and any(made_by(item, "ReduceMean") is not None for item in added.inputs)


def scaled(value: Any) -> tuple[float, Any]:
    """``x·c`` or ``x/c`` → ``c`` or ``1/c``, and ``x``; otherwise 1 and the value itself."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in ("Mul", "Div"):
        return 1.0, value
    for index in (1, 0) if node.op_type == "Mul" else (1,):
        constant = constant_array(node.inputs[index])
        if constant is not None and constant.size == 1:
            factor = float(constant.reshape(()))
            return (factor if node.op_type == "Mul" else 1 / factor), node.inputs[1 - index]
    return 1.0, value


def residual_sum(value: Any) -> Any:
    """The Add of two activations that makes a value, or None."""
    node = made_by(value, "Add")
    return node if node is not None and all(item.const_value is None for item in node.inputs) else None


#: Operators whose result has as many axes as their first input.
_SAME_RANK = ("Slice", "Cast", "Add", "Mul", "Sub", "CumSum", "Not", "Equal", "Identity")


def _rank(value: Any) -> int | None:
    """Number of axes, where the graph tells."""
    for _ in range(8):
        if value is None or value.shape is not None:
            break
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in _SAME_RANK else None
    return len(value.shape) if value is not None else None


def embedding_tables(value: Any) -> tuple[Any, Any, Any] | None:
    """The lookups of word, type and position that a sum consists of, or None."""
    outer = residual_sum(value)
    if outer is None:
        return None
    for inner, last in (outer.inputs, reversed(outer.inputs)):
        pair = residual_sum(inner)
        made = [made_by(item, "Gather") for item in (*pair.inputs, last)] if pair is not None else []
        lookups = [item for item in made if item is not None and item.inputs[0].const_value is not None]
        if len(lookups) == 3 and all(_rank(item.inputs[1]) == 2 for item in lookups):
            word = next((item for item in lookups if item.inputs[1].name == "input_ids"), None)
            rest = [item for item in lookups if item is not word]
            if word is None or any(item.inputs[1].name == "input_ids" for item in rest):
                return None
            rest.sort(key=lambda item: item.inputs[0].const_value.shape[0])  # more positions than types of tokens
            return word, rest[0], rest[1]
    return None


def is_tanh_gelu(node: Any) -> bool:
    """Whether a Tanh is that of ``½x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))``."""
    if node.op_type != "Tanh":
        return False
    factor, _ = scaled(node.inputs[0])
    return math.isclose(factor, math.sqrt(2 / math.pi), rel_tol=TOLERANCE)
