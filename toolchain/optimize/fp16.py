"""Half precision (IEEE float16): half the bytes, and on a GPU most of the time; numbers that overflow it stay in fp32.

Sign, 5 bits of exponent, 10 of mantissa: steps of 2⁻¹¹ relative, and nothing above 65,504. Softmax, layer-norm and what
else exponentiates or sums squares is computed in fp32, and so is every node that reads or gives numbers near that
bound on training texts (Micikevicius et al., Mixed Precision Training, arXiv 1710.03740). ONNX Runtime has no float16
kernels for x86: it widens the weights when it loads them, so there the gain is the file's size.
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

_KIND = half.Kind("fp16", "FLOAT16", 65504.0)


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of half precision."""

    #: Compute in half precision too; otherwise only the weights are stored so, and computed with in fp32.
    compute: bool = True
    #: With compute: training texts on which numbers that overflow are looked for.
    samples: Annotated[int, Ge(1), Le(10_000)] = 64
    #: A node stays in fp32 when a number exceeds float16's largest divided by this.
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
