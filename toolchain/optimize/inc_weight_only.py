"""4-bit weights, float activations, by Intel Neural Compressor: rounding (RTN), GPTQ or AWQ.

Each group of rows of a weight's column has a scale: ``W ≈ s·(q − z)``, ``q`` of 0 to 15. RTN rounds to the nearest;
GPTQ corrects the rows to come for each row's error, by the inverse Hessian of the calibrated inputs (Frantar et al.,
arXiv 2210.17323); AWQ scales up the channels that large activations meet (Lin et al., arXiv 2306.00978). ONNX Runtime
runs the products as MatMulNBits. Embedding tables stay in floating point, and so does what the package would only
round: it packs 4 bits and no other number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from toolchain.core.errors import RecipeError
from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.optimize.shared import half
from toolchain.optimize.shared.inc import graph_edits, quantize

VERSION = 1
LIBRARIES = quantize.LIBRARIES
TAKES = ("standard",)
GIVES = "ort"
AGREEMENT = 0.95
METHOD = "quantized"

#: It quantizes single precision.
requires = half.refusal
#: Versions in the interpreter that the settings name; empty for this one.
fingerprint = quantize.fingerprint

#: ``accuracy_level`` of MatMulNBits.
_LEVELS = {"float32": 0, "int8": 4}


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of 4-bit weights.

    Attributes:
        algorithm: How numbers are rounded: rtn needs no data, gptq and awq read calibration sentences.
        group_size: Rows of a column that have one scale.
        symmetric: No zero points; otherwise each group has one.
        compute: What ONNX Runtime multiplies in; int8 rounds the activations as it runs, and is faster.
        calibration_samples: Training sentences that gptq and awq read.
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns.
        python: Interpreter of an environment that has the package; empty for this one.
    """

    algorithm: Literal["rtn", "gptq", "awq"] = "rtn"
    group_size: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = True
    compute: Literal["float32", "int8"] = "float32"
    calibration_samples: Annotated[int, Ge(1), Le(10_000)] = 128
    exclude: tuple[str, ...] = ()
    python: str = ""


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Quantizes the weights of ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard`` and its tokenizer.
        out: Folder to write.
        config: Settings.
        context: Gives the training sentences.

    Returns:
        nodes, parameters, int8_weights (packed ones), float_weights, and the package's versions.

    Raises:
        RecipeError: The package would pack the groups wrongly, or round a shared weight once for each reader.
    """
    model = quantize.load(source)
    shared = graph_edits.weights_read_often(model)
    if shared and config.algorithm != "rtn":
        name, count = next(iter(shared.items()))
        raise RecipeError(
            f"algorithm: {config.algorithm} rounds a weight for the one layer that reads it; {name} is read by {count}",
            "set algorithm: rtn for models whose layers share weights",
        )
    if not config.symmetric:
        graph_edits.check_groups(model, config.group_size)
    weight = {
        "bits": [4],
        "group_size": [config.group_size],
        "scheme": ["sym" if config.symmetric else "asym"],
        "algorithm": [config.algorithm.upper()],
    }
    job = quantize.job(
        "inc_weight_only",
        config,
        settings={
            "approach": "weight_only",
            "recipes": {f"{config.algorithm}_args": {"accuracy_level": _LEVELS[config.compute]}},
            "op_type_dict": {"MatMul": {"weight": weight}},
        },
        dialect=GIVES,
        embeddings=False,
        calibration_samples=0 if config.algorithm == "rtn" else config.calibration_samples,
        equal_lengths=config.algorithm == "awq",
    )
    return quantize.quantize(model, source, out, job, context)
