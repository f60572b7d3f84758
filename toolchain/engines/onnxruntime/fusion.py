"""Complete fusion of an encoder's graph for ONNX Runtime: attention, embedding and skip layer-norm, biased GELU.

ONNX Runtime's own optimizer matches the graphs of one old exporter; these rules follow the flow of values instead,
whatever computes the projections (float, int8, low-rank factors), layer by layer, with any number of heads.

1. ``softmax(scale·QKᵀ + mask)·V``, with the transposes around it, becomes ``MultiHeadAttention`` (Vaswani et al.,
   arXiv 1706.03762). Q/DQ pairs inside are dropped: the products of two activations stay in floating point; one that
   rounds the result before it is transposed rounds it behind the operator. The guard
   that PyTorch's exporter adds, ``Where(IsNaN(p), 0, p)``, is for rows that attend to nothing; no sentence has one.
   Casts around the softmax of a half-precision graph go too: the kernel sums in single precision by itself.
2. A mask that is found to be the attention mask, by running it (``fusion_mask``), is read as it came in, ``[batch,
   tokens]``, and not as ``[batch, 1, tokens, tokens]``; or as the length of every row, ``[batch]``, for texts that are
   padded at their end.
3. ``LayerNorm(word[ids] + type[ids] + position[ids])`` of float tables becomes ``EmbedLayerNormalization``.
4. ``LayerNorm(a + b)`` becomes ``SkipLayerNormalization``; a bias of a float product before it goes with it.
5. ``Gelu(x + bias)`` of a float product becomes ``BiasGelu``. (Int8 products add their bias themselves.)
6. ``½x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))``, ALBERT's GELU (Hendrycks and Gimpel, arXiv 1606.08415), becomes
   ``FastGelu``.

Rules 4 and 5 are for GPUs: on a CPU, ONNX Runtime 1.31 computes them element by element. For 736 tokens of 384 numbers,
``SkipLayerNormalization`` took 1.9 ms where ``Add`` and the vectorized ``LayerNormalization`` took 0.35, and
``BiasGelu`` twice as long as ``Add`` and ``Gelu`` (one thread of an AVX-512 CPU): there, its own rules that make them
are left out.

What is spelled out otherwise (GELU by Erf, layer-norm by means) is left to ONNX Runtime's own rules, which know those;
``fusion_count`` counts them all the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from toolchain.core.errors import require
from toolchain.engines.onnxruntime.fusion_count import TOLERANCE, embedding_tables, is_tanh_gelu, residual_sum, scaled
from toolchain.engines.onnxruntime.fusion_half import float_cast
from toolchain.engines.onnxruntime.fusion_mask import is_padding_mask
from toolchain.engines.onnxruntime.nodes import (
    constant_array,
    initializer,
    is_float,
    made_by,
    move_pair,
    new_node,
    only_user,
    pair_behind,
    permutation,
    replace,
    shaped_constant,
)

MICROSOFT = "com.microsoft"


def fuse(model: Any, *, attention: bool = True, residuals: bool = True, lengths: bool = False) -> int:
    """Applies the rules in place.

    Args:
        model: An ``onnx_ir.Model``.
        attention: Apply rules 1 and 2.
        residuals: Apply rules 4 and 5.
        lengths: Give attention the length of every row in place of its mask.

    Returns:
        How many places were rewritten.
    """
    passes = require("onnx_ir.passes.common", "torch")
    graph = model.graph
    masks: dict[Any, Any] = {}
    softmaxes = [node for node in graph if node.op_type == "Softmax" and attention]
    count = sum(_attention(model, node, masks, lengths) for node in softmaxes)
    norms = [node for node in graph if node.op_type == "LayerNormalization" and _axis_is_last(node)]
    count += sum(_embed_norm(graph, node) or (residuals and _skip_norm(graph, node)) for node in norms)
    count += sum(_tanh_gelu(graph, node) for node in list(graph) if node.op_type == "Tanh")
    if residuals:
        count += sum(_bias_gelu(graph, node) for node in list(graph) if node.op_type == "Gelu")
    if count:
        graph.opset_imports.setdefault(MICROSOFT, 1)
        passes.RemoveUnusedNodesPass()(model)
    return count


def _attention(model: Any, softmax: Any, masks: dict[Any, Any], lengths: bool) -> bool:
    """Rules 1 and 2 at one Softmax."""
    graph = model.graph
    product = only_user(_unguarded(softmax.outputs[0]), "MatMul")
    if product is None or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return False
    pair = pair_behind(product.outputs[0])
    back = only_user(pair[1].outputs[0] if pair else product.outputs[0], "Transpose")
    merge = only_user(back.outputs[0], "Reshape") if back is not None and permutation(back) == [0, 2, 1, 3] else None
    heads_of_value = _split_heads(_dequantized(product.inputs[1]))
    scores, mask = _scores_and_mask(_dequantized(softmax.inputs[0]))
    if merge is None or heads_of_value is None or scores is None or len(_target(merge)) != 3:
        return False
    scale, inner = scaled(scores)
    inner = made_by(_dequantized(inner), "MatMul")
    if inner is None:
        return False
    query_scale, query = scaled(_dequantized(inner.inputs[0]))
    key_scale, key = scaled(_dequantized(inner.inputs[1]))
    heads_of_query, heads_of_key = _split_heads(_dequantized(query)), _split_heads(_untransposed(_dequantized(key)))
    if heads_of_query is None or heads_of_key is None:
        return False
    heads = _heads(heads_of_query)
    if not heads:
        return False
    inputs = [made.inputs[0] for made in (heads_of_query, heads_of_key, heads_of_value)]
    padding = bias = None
    if mask is not None:
        if mask not in masks:
            masks[mask] = is_padding_mask(model, mask)
        padding, bias = (_padding_mask(graph, masks, lengths), None) if masks[mask] else (None, mask)
        if bias is not None and not _has_queries(bias):
            return False  # the operator takes a bias for every query alone
    made = new_node(
        "MultiHeadAttention", [*inputs, None, padding, bias], merge, MICROSOFT,
        num_heads=heads, scale=float(scale * query_scale * key_scale),
    )  # fmt: skip
    replace(graph, merge, made)
    if pair:
        move_pair(pair, made)
    return True


def _skip_norm(graph: Any, norm: Any) -> bool:
    """Rule 4 at one LayerNormalization."""
    added = residual_sum(norm.inputs[0])
    if added is None:
        return False
    first, second = added.inputs
    if _batch_is_one(first):  # what is broadcast must be the second
        first, second = second, first
    bias = None
    for value, other in ((first, second), (second, first)):
        biased = _bias_of_float_product(value)
        if biased is not None and not value.is_graph_output() and len(value.uses()) == 1:
            first, second, bias = biased[0], other, biased[1]
            break
    beta = norm.inputs[2] if len(norm.inputs) > 2 else None
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    others = [use.node for use in added.outputs[0].uses() if use.node is not norm]
    made = new_node(
        "SkipLayerNormalization", [first, second, norm.inputs[1], beta, bias], norm, MICROSOFT,
        outputs=4 if others else 1, epsilon=epsilon,
    )  # fmt: skip
    replace(graph, norm, made)
    if others:  # the sum itself is read elsewhere: pre-norm encoders
        require("onnx_ir", "torch").convenience.replace_all_uses_with(added.outputs[0], made.outputs[3])
    return True


def _embed_norm(graph: Any, norm: Any) -> bool:
    """Rule 3 at one LayerNormalization."""
    tables = embedding_tables(norm.inputs[0])
    if tables is None or len(norm.inputs) < 3 or not all(is_float(table.inputs[0]) for table in tables):
        return False
    word, kind, position = tables
    narrow = [_as_int32(graph, lookup.inputs[1], norm) for lookup in tables]
    weights = [lookup.inputs[0] for lookup in (word, position, kind)]
    made = new_node(
        "EmbedLayerNormalization",
        [narrow[0], narrow[1], *weights, norm.inputs[1], norm.inputs[2], None, narrow[2]],
        norm, MICROSOFT, outputs=2, epsilon=norm.attributes.get_float("epsilon", 1e-5), mask_index_type=0,
    )  # fmt: skip
    replace(graph, norm, made)
    return True


def _bias_gelu(graph: Any, gelu: Any) -> bool:
    """Rule 5 at one Gelu."""
    biased = _bias_of_float_product(gelu.inputs[0])
    if biased is None or len(gelu.inputs[0].uses()) > 1 or gelu.attributes.get_string("approximate", "none") != "none":
        return False
    replace(graph, gelu, new_node("BiasGelu", list(biased), gelu, MICROSOFT))
    return True


def _tanh_gelu(graph: Any, tanh: Any) -> bool:
    """Rule 6 at one Tanh."""
    if not is_tanh_gelu(tanh):
        return False
    added = made_by(scaled(tanh.inputs[0])[1], "Add")
    one = only_user(tanh.outputs[0], "Add")
    last = only_user(one.outputs[0], "Mul") if one is not None else None
    if added is None or last is None or not _is_number(_other(one, tanh.outputs[0]), 1.0):
        return False
    half, source = scaled(_other(last, one.outputs[0]))
    if not math.isclose(half, 0.5, rel_tol=TOLERANCE) or source not in added.inputs:
        return False
    factor, cubed = scaled(_other(added, source))
    power = made_by(float_cast(cubed), "Pow")
    if power is None or float_cast(power.inputs[0]) is not source or not _is_number(power.inputs[1], 3.0):
        return False
    if not math.isclose(factor, 0.044715, rel_tol=TOLERANCE):
        return False
    replace(graph, last, new_node("FastGelu", [source], last, MICROSOFT))
    return True


def _other(node: Any, value: Any) -> Any:
    """The operand of a sum or product that is not the given one."""
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _is_number(value: Any, number: float) -> bool:
    held = constant_array(value)
    return held is not None and held.size == 1 and math.isclose(float(held.reshape(())), number, rel_tol=TOLERANCE)


def _scores_and_mask(value: Any) -> tuple[Any, Any]:
    """``scores + mask`` → both; without a mask, it is None; no product at all gives None twice."""
    added = made_by(value, "Add")
    if added is None:
        return (value, None) if made_by(_dequantized(scaled(value)[1]), "MatMul") else (None, None)
    for scores, mask in (added.inputs, reversed(added.inputs)):
        if made_by(_dequantized(scaled(_dequantized(scores))[1]), "MatMul"):
            return _dequantized(scores), mask
    return None, None


def _has_queries(bias: Any) -> bool:
    """Whether what is added to scores is known to have a row for every query: ``[·, ·, queries, keys]``."""
    return bias.shape is not None and len(bias.shape) == 4 and bias.shape[2] != 1


def _split_heads(value: Any) -> Any:
    """The Reshape ``[batch, tokens, width] → [batch, tokens, heads, size]`` under ``Transpose(0, 2, 1, 3)``."""
    node = made_by(value, "Transpose")
    if node is None or permutation(node) != [0, 2, 1, 3]:
        return None
    split = made_by(_dequantized(node.inputs[0]), "Reshape")
    if split is None or len(_target(split)) != 4:
        return None
    shape = split.inputs[0].shape
    return split if shape is None or len(shape) == 3 else None  # [batch · tokens, width] is none of ours


def _untransposed(value: Any) -> Any:
    """``Kᵀ`` → ``K``, ``[batch, heads, tokens, size]``, however its last two axes were swapped."""
    ir = require("onnx_ir", "torch")
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "Transpose" and permutation(node) == [0, 2, 3, 1]:
        made = ir.Node("", "Transpose", list(node.inputs), [ir.AttrInt64s("perm", [0, 2, 1, 3])])
        node.graph.insert_before(node, made)
        return made.outputs[0]
    if node.op_type == "Transpose" and permutation(node) == [0, 1, 3, 2]:
        return node.inputs[0]
    if node.op_type == "Reshape":  # the exporter's way: to three axes, swap, and back to four
        swap = made_by(node.inputs[0], "Transpose")
        flat = made_by(swap.inputs[0], "Reshape") if swap is not None and permutation(swap) == [0, 2, 1] else None
        return flat.inputs[0] if flat is not None else None
    return None


def _heads(split: Any) -> int:
    """Number of heads that a Reshape splits into; 0 when it cannot be told."""
    target = _target(split)
    heads, size = target[2], target[3]
    if heads is not None and heads > 0:
        return int(heads)
    width = _width(split.inputs[0])
    return width // size if size and size > 0 and width else 0


def _target(reshape: Any) -> list[int | None]:
    """The shape that a Reshape asks for, None where it is computed."""
    constant = constant_array(reshape.inputs[1])
    if constant is not None:
        return [int(size) for size in constant]
    joined = made_by(reshape.inputs[1], "Concat")
    if joined is None:
        return []
    sizes: list[int | None] = []
    for part in joined.inputs:
        known = constant_array(part)
        sizes += [int(size) for size in known.reshape(-1)] if known is not None else [None]
    return sizes


def _width(value: Any) -> int:
    """Length of the last axis, from the bias or the weight that made it; 0 when unknown."""
    for _ in range(8):
        node = value.producer() if value is not None else None
        if node is None:
            break
        sizes = [constant.shape[-1] for item in node.inputs if (constant := shaped_constant(item)) is not None]
        wide = [size for size in sizes if size > 1]
        if node.op_type in ("Add", "MatMul", "MatMulInteger") and wide:
            return int(wide[-1])
        weights = [made_by(item, "DequantizeLinear") for item in node.inputs[1:2]]
        if node.op_type == "MatMul" and weights and weights[0] is not None and weights[0].inputs[0].shape is not None:
            return int(weights[0].inputs[0].shape[-1])
        value = next((item for item in node.inputs if item is not None and item.const_value is None), None)
    shape = value.shape if value is not None else None
    return int(shape[-1]) if shape is not None and isinstance(shape[-1], int) else 0


def _padding_mask(graph: Any, masks: dict[Any, Any], lengths: bool) -> Any:
    """The input ``attention_mask`` as int32, or the sum of each of its rows, made once."""
    if "padding" not in masks:
        first = next(iter(graph))
        source = next(value for value in graph.inputs if value.name == "attention_mask")
        narrow = _as_int32(graph, source, first)
        masks["padding"] = _row_lengths(graph, narrow, first) if lengths else narrow
    return masks["padding"]


def _row_lengths(graph: Any, mask: Any, before: Any) -> Any:
    """``[batch, tokens]`` of ones and zeros → ``[batch]``."""
    ir = require("onnx_ir", "torch")
    axes = initializer(graph, "attention_mask.axes", np.array([1], dtype=np.int64))
    node = ir.Node("", "ReduceSum", [mask, axes], [ir.AttrInt64("keepdims", 0)], name="attention_mask.lengths")
    node.outputs[0].dtype = ir.DataType.INT32
    graph.insert_before(before, node)
    return node.outputs[0]


def _as_int32(graph: Any, value: Any, before: Any) -> Any:
    ir = require("onnx_ir", "torch")
    if value.dtype == ir.DataType.INT32:
        return value
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", ir.DataType.INT32.value)])
    graph.insert_before(before, cast)
    cast.outputs[0].dtype = ir.DataType.INT32
    return cast.outputs[0]


def _bias_of_float_product(value: Any) -> tuple[Any, Any] | None:
    """``x·W + b`` in floats → the product, and ``b``."""
    node = made_by(value, "Add")
    if node is None:
        return None
    for product, bias in (node.inputs, reversed(node.inputs)):
        made = made_by(product, "MatMul")
        if made is not None and bias.const_value is not None and len(bias.shape) == 1:
            return (product, bias) if is_float(made.inputs[1]) and made.inputs[1].const_value is not None else None
    return None


def _unguarded(value: Any) -> Any:
    """``Where(IsNaN(p), 0, p)`` of ``p``, or Q/DQ of it, when that is what reads it; else the value."""
    users = [use.node for use in value.uses()]
    kinds = sorted(node.op_type for node in users)
    if kinds == ["IsNaN", "Where"]:
        return _unguarded(next(node for node in users if node.op_type == "Where").outputs[0])
    if kinds == ["Cast"] and float_cast(users[0].outputs[0]) is value:
        return _unguarded(users[0].outputs[0])
    if kinds == ["QuantizeLinear"]:
        after = only_user(users[0].outputs[0], "DequantizeLinear")
        return after.outputs[0] if after is not None else value
    return value


def _dequantized(value: Any) -> Any:
    """The float behind a Q/DQ pair of an activation, or behind a Cast between floats; otherwise the value itself."""
    after = made_by(value, "DequantizeLinear")
    before = made_by(after.inputs[0], "QuantizeLinear") if after is not None else None
    return before.inputs[0] if before is not None else float_cast(value)


def _axis_is_last(norm: Any) -> bool:
    return bool(norm.attributes.get_int("axis", -1) == -1)


def _batch_is_one(value: Any) -> bool:
    """Whether a value is known to be the same for every example, as position embeddings are."""
    if value.shape is not None and len(value.shape) == 3:
        return bool(value.shape[0] == 1)
    lookup = made_by(value, "Gather")
    indices = lookup.inputs[1] if lookup is not None else None
    made = made_by(indices, "Slice") if indices is not None else None
    table = constant_array(made.inputs[0]) if made is not None else None
    return table is not None and table.shape[0] == 1
