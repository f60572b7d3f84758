"""A graph as ONNX Runtime runs it best, written once at build time, and what became of attention, norms and GELUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core.errors import ModelError, first_line, require
from toolchain.engines.onnxruntime import fusion, fusion_count, fusion_half, integer
from toolchain.model import graph

#: ONNX Runtime's own rules that would undo ``residuals: plain``.
RESIDUAL_RULES = ("SkipLayerNormFusion", "BiasGeluFusion")


@dataclass(frozen=True)
class Forms:
    """Which operators the lowered graph is made of.

    Attributes:
        attention: Attention as one operator each; otherwise its products and softmax stay.
        residuals: Residual additions inside layer-norms, biases inside GELUs; otherwise they stay additions.
        integers: Products of int8 tensors as ONNX Runtime's integer kernels, which CPUs have.
        half: Fused operators in float16 too, which GPUs have.
        lengths: Attention reads the length of every row, and not its mask: for texts that are padded at their end.
    """

    attention: bool = True
    residuals: bool = False
    integers: bool = True
    half: bool = False
    lengths: bool = False

    @property
    def disabled(self) -> tuple[str, ...]:
        """ONNX Runtime's own rules to leave out."""
        return () if self.residuals else RESIDUAL_RULES


def rewrite(path: Path, folder: Path, forms: Forms) -> Path:
    """Fuses a graph and makes its quantized products integer ones.

    Args:
        path: An ONNX file, inspected before.
        folder: Where to write the rewritten graph.
        forms: What to make.

    Returns:
        The rewritten file, or the path itself when no rule applied.

    Raises:
        ModelError: The graph cannot be read.
    """
    ir = require("onnx_ir", "torch")
    model = _load(path)
    narrow = fusion_half.narrow_type(model)
    if narrow and not (forms.half and narrow == "FLOAT16"):
        return path
    if narrow:
        fusion_half.narrow_norms(model)
    count = fusion.fuse(model, attention=forms.attention, residuals=forms.residuals, lengths=forms.lengths)
    count += integer.lower(model) if forms.integers else 0
    if not count:
        return path
    tensors = [value.const_value for value in model.graph.initializers.values()]
    apart = sum(tensor.nbytes for tensor in tensors) > graph.MAX_BYTES
    apart |= any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    target = folder / path.name
    ir.save(model, target, external_data=f"{path.name}.data" if apart else None)
    return target


def counts(ran: Mapping[str, int], path: Path, forms: Forms) -> dict[str, list[int]]:
    """What ran of what there was to fuse, by kind: ``[found, expected]``.

    Args:
        ran: How many nodes of each operator ran.
        path: The graph before it was lowered. One that computes in half precision has nothing to fuse on a CPU: ONNX
            Runtime has no fused kernels for it there.
        forms: What was asked for; what was to stay as it is, is not counted.
    """
    model = _load(path)
    narrow = fusion_half.narrow_type(model)
    fused = forms.half and narrow == "FLOAT16"
    if fused:
        fusion_half.narrow_norms(model)
    expected = fusion_count.expected(model) if fused or not narrow else {}
    found = fusion_count.found(ran)
    left = {"attention"} if not forms.attention else set()
    left |= {"residual"} if not forms.residuals else set()
    return {kind: [found[kind], number] for kind, number in expected.items() if number and kind not in left}


def _load(path: Path) -> Any:
    ir, passes = require("onnx_ir", "torch"), require("onnx_ir.passes.common", "torch")
    try:
        model = ir.load(path)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        return model
    except Exception as error:  # protobuf's and onnx_ir's errors share no base class
        raise ModelError(f"{path} cannot be read: {first_line(error)}", "export the model again") from error
