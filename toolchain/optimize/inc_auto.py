"""Int8 by Intel Neural Compressor's accuracy-aware tuning: tries settings until dev accuracy drops little enough.

``accuracy(float) − accuracy(int8) ≤ max_drop`` on dev sentences; test is never read. The package tries static, then
dynamic quantization, each kind of operator alone, the algorithms that find ranges, and at last puts operators back to
floating point, by how much each costs. The first graph that reaches the target ends the search; when trials or time end
it, the best so far is kept, and the manifest's ``target_reached`` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, StageConfig
from toolchain.optimize.shared import half
from toolchain.optimize.shared.inc import quantize

VERSION = 1
LIBRARIES = quantize.LIBRARIES
TAKES = ("standard",)
AGREEMENT = 0.98
METHOD = "quantized"

#: It quantizes single precision.
requires = half.refusal
#: Versions in the interpreter that the settings name; empty for this one.
fingerprint = quantize.fingerprint


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of accuracy-aware tuning.

    Attributes:
        max_drop: Points of dev accuracy that may be lost.
        trials: Graphs to try at most.
        minutes: Time for all of them, the start of the package included; then the best so far is taken.
        dev_samples: Dev sentences that each is judged on, the first ones.
        calibration_samples: Training sentences to read in each trial.
        activations: ``symmetric`` int8 (dialect ``qdq``) or ``asymmetric`` uint8 (``qdq-asymmetric``), both static;
            ``any`` is asymmetric, and where that loses too much, dynamic (``ort``).
        per_channel: One weight scale per output channel instead of one per weight.
        embeddings: Quantize the embedding tables too, where the search does.
        attention: Quantize the two products inside attention too, where the search does.
        reduce_range: 7-bit weights, for CPUs whose int8 products saturate (AVX2 and AVX-512 without VNNI).
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns.
        python: Interpreter of an environment that has the package; empty for this one.
    """

    max_drop: Annotated[float, Ge(0), Le(100)] = 0.5
    trials: Annotated[int, Ge(1), Le(1000)] = 30
    minutes: Annotated[float, Gt(0), Le(1440)] = 15
    dev_samples: Annotated[int, Ge(1), Le(100_000)] = 2000
    calibration_samples: Annotated[int, Ge(1), Le(10_000)] = 128
    activations: Literal["any", "asymmetric", "symmetric"] = "any"
    per_channel: bool = True
    embeddings: bool = True
    attention: bool = False
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()
    python: str = ""


def gives(config: Config, taken: str) -> str:
    """``qdq`` when symmetric, ``qdq-asymmetric`` when asymmetric, ``ort`` when it may be dynamic; whatever is taken."""
    return {"symmetric": "qdq", "asymmetric": "qdq-asymmetric", "any": "ort"}[config.activations]


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Searches, and writes the best graph as ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard`` and its tokenizer.
        out: Folder to write.
        config: Settings.
        context: Gives the training and the dev sentences.

    Returns:
        nodes, parameters, int8_weights, float_weights, the package's versions, target_reached, trials,
        accuracy_dev, accuracy_dev_float and accuracy_drop_dev.
    """
    job = quantize.job(
        "inc_auto",
        config,
        settings=quantize.static(config.activations == "symmetric", config.reduce_range)
        | {
            "approach": "auto" if config.activations == "any" else "static",
            # Level 0, which "auto" begins with, ends in a TypeError where an operator can be static or dynamic.
            "quant_level": 1,
            "op_type_dict": quantize.weights(config.per_channel),
        },
        dialect=gives(config, "standard"),
        tuning=quantize.Tuning(
            max_drop=config.max_drop / 100, trials=config.trials, minutes=config.minutes, dev_samples=config.dev_samples
        ),
    )
    return quantize.quantize(quantize.load(source), source, out, job, context)
