"""Computes the last layer for the one token that the classifier reads: exact, and a large part of that layer's work.

A classifier reads the first token of the last hidden state, so of the last layer only that token's query, attention
row, output projection, residuals, layer-norms and FFN are needed; keys and values stay for all tokens:
``y₀ = FFN(x₀ + softmax(q₀Kᵀ/√d)V·W_o)``. Each output row of these operators depends on the same row of their input
alone, so ``op(x)[k] = op(x[k])``: starting at the Gather (or Slice) that reads the token, the selection moves up
through the graph, operator by operator, until it meets a value that is needed for all tokens anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core.errors import ModelError, require
from toolchain.core.stage import Context, Metrics, StageConfig
from toolchain.model import graph
from toolchain.optimize.cls_only import narrowing
from toolchain.optimize.shared import half, observation

VERSION = 1
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
TAKES = ("standard",)
GIVES = "standard"
AGREEMENT = 1.0


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """It has no settings."""


def requires(history: Sequence[str]) -> str | None:
    """Once, and while the graph is float."""
    return "it stands there already" if "cls_only" in history else half.refusal(history)


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Rewrites ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard``, its tokenizer and interface.
        out: Folder to write.
        config: Settings.
        context: Gives the dev texts, whose mean length the FLOPs are counted at.

    Returns:
        nodes, flops and flops_saved (of one example of mean length, in its matrix products), narrowed: products that
        are now computed for one token.

    Raises:
        ModelError: The graph does not read a single token, or nothing before that depends on that token alone.
    """
    ir = require("onnx_ir", "torch")
    path = source / "model.onnx"
    proto = graph.load(path)
    tokens = observation.mean_tokens(source, context)
    before = observation.observe(proto, path, tokens, context)
    flops = observation.operations(proto, before)
    model = ir.from_proto(proto)
    del proto
    roots = _single_token_reads(model, before)
    narrowed = narrowing.narrow(model, roots, before) if roots else []
    if not narrowed:
        raise ModelError(
            f"{path}: nothing in the graph reads a single token of a hidden state; the classifier reads all tokens "
            "(mean pooling, for example), or the last layer is computed for one token already",
            "take cls_only out of this variant",
        )
    if not any(node.op_type == "Softmax" for node in narrowed):
        kinds = ", ".join(sorted({node.op_type for node in narrowed}))
        raise ModelError(
            f"{path}: from the token that the classifier reads ({roots[0].node.name}) upwards, no attention is reached "
            f"(reached: {kinds})",
            "take cls_only out of this variant, or report the architecture",
        )
    made = ir.to_proto(model)
    after = observation.operations(made, observation.observe(made, path, tokens, context))
    graph.save(made, out / "model.onnx")
    return {
        "nodes": len(made.graph.node),
        "narrowed": sum(node.op_type in ("MatMul", "Gemm") for node in narrowed),
        "flops": after,
        "flops_saved": flops - after,
    }


def _single_token_reads(model: Any, observed: observation.Observed) -> list[narrowing.Read]:
    """Every Gather and Slice that takes one token out of all tokens of a hidden state."""
    found = []
    for node in model.graph:
        read = _read(node, observed)
        if read and node.inputs[0].name in observed.floats:
            found.append(read)
    return found


def _read(node: Any, observed: observation.Observed) -> narrowing.Read | None:
    if node.op_type not in ("Gather", "Slice") or node.inputs[0].const_value is not None:
        return None
    shape = observed.shapes[node.inputs[0].name]
    if node.op_type == "Gather":
        index = narrowing.integers(node.inputs[1])
        axis = narrowing.attribute(node, "axis", 0) % len(shape)
        if index is None or len(index) != 1:
            return None
        token = index[0]
    else:
        bounds = [narrowing.integers(value) for value in node.inputs[1:]]
        if len(bounds) < 3 or any(bound is None or len(bound) != 1 for bound in bounds):
            return None
        (start,), (end,), (axis,) = (bound for bound in bounds[:3] if bound)
        axis, token = axis % len(shape), start
        if end != start + 1 and not (start == -1 and end > 0):
            return None
    return narrowing.Read(node, axis, token) if shape[axis] == observed.tokens else None
