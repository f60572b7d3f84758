"""Folds constants, infers shapes and drops what computes nothing: exact, and every dialect stays what it is.

With onnxscript's folding and onnx-ir's passes, in this order:

1. functions are inlined, constants become initializers, and what constants alone decide is computed once; quantized
   weights are not unfolded (``DequantizeLinear`` of a constant stays);
2. identities, and nodes that compute what another node computes, are removed;
3. equal initializers become one, and what nobody reads is dropped;
4. shapes are inferred anew, and the nodes stand in topological order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain.core.errors import ModelError, first_line, require
from toolchain.core.stage import Context, Ge, Metrics, StageConfig
from toolchain.model import graph

VERSION = 1
LIBRARIES = ("onnx", "onnxscript")
TAKES = ("standard", "qdq", "qdq-asymmetric", "ort", "qdq-fp8")
AGREEMENT = 1.0

#: Folding these would turn quantized weights into floats.
_KEPT = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))

#: Twice: what the first round folds can make an operator of the second constant.
_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the cleaning."""

    #: A folded constant with more elements than this stays computed: it would cost more bytes than it saves time.
    largest_constant: Annotated[int, Ge(1)] = 8192


def gives(config: Config, taken: str) -> str:
    """What was taken, whatever it is."""
    return taken


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Cleans ``model.onnx``.

    Args:
        source: Folder with a graph of any dialect.
        out: Folder to write.
        config: Settings.
        context: Not needed.

    Returns:
        nodes, nodes_removed, initializers.

    Raises:
        ModelError: The graph is not valid ONNX, or has shapes that contradict each other.
    """
    ir = require("onnx_ir", "torch")
    path = source / "model.onnx"
    proto = graph.load(path)
    before = len(proto.graph.node)
    # Shapes noted by others may be wrong once nodes are gone (ONNX Runtime's quantizer trips over the exporter's).
    del proto.graph.value_info[:]
    try:
        model = ir.from_proto(proto)
        del proto
        for one in _passes(config):
            one(model)
        made = ir.to_proto(model)
    except Exception as error:  # PassError of a pass, SerdeError of what cannot be written, from whatever they met
        raise ModelError(
            f"{path}: cleaning failed: {first_line(error.__cause__ or error)}",
            "the graph may be invalid: onnx.checker says where; or take clean out of this variant",
        ) from error
    graph.save(made, out / "model.onnx")
    return {
        "nodes": len(made.graph.node),
        "nodes_removed": before - len(made.graph.node),
        "initializers": len(made.graph.initializer),
    }


def _passes(config: Config) -> list[Callable[[Any], object]]:
    """The passes in order; each changes the ``onnx_ir.Model`` that it is called with."""
    passes = require("onnx_ir.passes.common", "torch")
    fold = functools.partial(
        require("onnxscript.optimizer", "torch").fold_constants_ir,
        onnx_shape_inference=True,
        input_size_limit=config.largest_constant,
        output_size_limit=config.largest_constant,
        should_fold=_foldable,
    )
    one_round = [
        fold,
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateHashedInitializersPass(size_limit=2**40),
        passes.CommonSubexpressionEliminationPass(),
    ]
    return [
        passes.InlinePass(),
        *one_round * _ROUNDS,
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.OutputFixPass(),
        passes.ShapeInferencePass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
    ]


def _foldable(node: Any) -> bool | None:
    """False for an operator that must stay; None leaves it to onnxscript."""
    return False if node.domain not in ("", "ai.onnx") or node.op_type in _KEPT else None
