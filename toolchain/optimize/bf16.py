"""Bfloat16: half the bytes with the range of fp32; stored only, or computed in where a runtime has kernels for it.

Sign, 8 bits of exponent, 7 of mantissa: steps of 2⁻⁸ relative, up to 3.4·10³⁸ (Kalamkar et al., arXiv 1905.12322).
Stored only, every engine takes the graph: ONNX Runtime widens the weights when it loads them, and OpenVINO with
``precision: bf16`` multiplies them as they are. With ``compute: true`` the products themselves are bfloat16 in the
graph, which OpenVINO, CUDA and TensorRT run and ONNX Runtime's CPU provider refuses: it has no such kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.optimize.shared import half

VERSION = 1
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
TAKES = ("standard",)
GIVES = "standard"
AGREEMENT = 0.998
METHOD = "quantized"

#: It narrows single precision.
requires = half.refusal

_KIND = half.Kind("bf16", "BFLOAT16", 3.3895e38)


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of bfloat16."""

    #: Compute in bfloat16 too (not for ONNX Runtime on a CPU); otherwise only the weights are stored so.
    compute: bool = False
    #: With compute: training texts on which numbers that overflow are looked for.
    samples: Annotated[int, Ge(1), Le(10_000)] = 64
    #: A node stays in fp32 when a number exceeds bfloat16's largest divided by this.
    headroom: Annotated[float, Ge(1), Le(1000)] = 4.0
    #: Nodes, or weights, that stay in fp32: names or shell patterns.
    exclude: tuple[str, ...] = ()


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Narrows ``model.onnx``; its inputs and logits keep their types.

    Args:
        source: Folder with a graph of dialect ``standard``, its tokenizer and interface.
        out: Folder to write.
        config: Settings.
        context: Gives the training texts.

    Returns:
        half_weights, float_weights, casts, kept: the nodes that stay in fp32 because they overflow, and largest: the
        largest number of the nodes that are narrow.

    Raises:
        ModelError: The graph cannot be run, or is narrow already.
        RecipeError: An exclusion matches nothing.
    """
    return half.convert(
        source, out, context, _KIND, compute=config.compute, samples=config.samples, headroom=config.headroom,
        exclude=config.exclude,
    )  # fmt: skip
