"""Int8 weights and activations by NNCF: smoothed, calibrated, bias-corrected; on request under a stated accuracy drop.

SmoothQuant (Xiao et al., arXiv 2211.10438) moves outliers of an activation into the weight that it meets,
``Y = (X·diag(s)⁻¹)·(diag(s)·W)`` with ``s_j = max|X_j|^a / max|W_j|^(1−a)``, a the setting ``smooth_quant_alpha``;
after calibration, each layer's bias takes back the mean error that quantization brought (Nagel et al., arXiv
1906.04721). With accuracy control, quantizers are removed, those that cost most first, until dev accuracy is within
``max_drop`` of the float graph's.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from toolchain import kinds
from toolchain.core.errors import ModelError, first_line, require
from toolchain.core.log import logger, progress
from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.kinds.contract import Kind
from toolchain.model import graph
from toolchain.optimize.shared import half, int8
from toolchain.optimize.shared.calibration import calibration_batches
from toolchain.optimize.shared.dev_accuracy import Item, dev_accuracy, dev_batches

VERSION = 2
LIBRARIES = ("nncf", "onnx", "onnxruntime")
TAKES = ("standard",)
AGREEMENT = 0.98
METHOD = "quantized"

#: It quantizes single precision.
requires = half.refusal

#: Presets by the names that NNCF has for them.
_PRESETS = {"performance": "PERFORMANCE", "mixed": "MIXED"}


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of NNCF's post-training quantization.

    Attributes:
        preset: ``performance``: activations symmetric (dialect ``qdq``); ``mixed``: asymmetric (``qdq-asymmetric``).
        calibration_samples: Training sentences to read.
        smooth_quant_alpha: How far outliers move from activations into weights; 0 leaves them.
        fast_bias_correction: Correct biases by each layer's own error, quickly; otherwise through the whole graph.
        embeddings: Quantize the embedding tables too.
        attention: Quantize the two products inside attention too.
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns.
        accuracy_control: Take quantizers back until dev accuracy is within ``max_drop``; takes many times as long.
        max_drop: Points of dev accuracy that may be lost, with accuracy control.
        ranking_samples: Dev sentences by which quantizers are ranked, with accuracy control.
    """

    preset: Literal["performance", "mixed"] = "performance"
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    smooth_quant_alpha: Annotated[float, Ge(0), Le(1)] = 0.95
    fast_bias_correction: bool = True
    embeddings: bool = True
    attention: bool = False
    exclude: tuple[str, ...] = ()
    accuracy_control: bool = False
    max_drop: Annotated[float, Ge(0), Le(100)] = 0.5
    ranking_samples: Annotated[int, Ge(1), Le(100_000)] = 300


def gives(config: Config, taken: str) -> str:
    """``qdq`` by the performance preset: every engine takes it; ``qdq-asymmetric`` by the mixed one."""
    return "qdq" if config.preset == "performance" else "qdq-asymmetric"


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Quantizes ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard`` and its tokenizer.
        out: Folder to write.
        config: Settings.
        context: Training sentences to calibrate on; dev sentences for accuracy control.

    Returns:
        nodes, parameters, int8_weights, float_weights, calibration_samples; with accuracy control dev_accuracy and
        float_dev_accuracy, in percent, and ``target_reached``: false where no quantized graph kept within ``max_drop``,
        and the graph is left in float.

    Raises:
        ModelError: NNCF cannot quantize the graph; with accuracy control, its labels are not the task's.
    """
    path = source / "model.onnx"
    model = int8.load_float(path)
    if config.accuracy_control and graph.size_bytes(model) > graph.MAX_BYTES:
        raise ModelError(
            f"{path} has {graph.size_bytes(model)} bytes; accuracy_control takes at most {graph.MAX_BYTES}",
            "leave accuracy_control out",
        )
    excluded = int8.excluded_nodes(model, config.exclude, embeddings=config.embeddings, attention=config.attention)
    samples = calibration_batches(source, config.calibration_samples, context)
    judged, kind = dev_batches(source, context) if config.accuracy_control else [], kinds.of_folder(source)
    below = False
    with _quiet():
        nncf = require("nncf", "openvino")
        advanced = nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=config.smooth_quant_alpha or -1)
        )
        settings: dict[str, Any] = {
            "preset": getattr(nncf.QuantizationPreset, _PRESETS[config.preset]),
            "model_type": nncf.ModelType.TRANSFORMER,
            "subset_size": len(samples),
            "fast_bias_correction": config.fast_bias_correction,
            "ignored_scope": nncf.IgnoredScope(names=excluded, validate=False),
        }
        # Statistics are collected once for smoothing and once for ranges.
        with _nncf_errors(path), progress("calibrating", 2 * len(samples)) as bar:

            def told(batch: dict[str, Any]) -> dict[str, Any]:
                bar.advance()
                return batch

            calibration = nncf.Dataset(samples, told)
            measured: dict[str, Any] = {}
            if config.accuracy_control:
                made, measured, below = _controlled(
                    nncf, model, calibration, settings, advanced, judged, config, context.threads, kind
                )
            else:
                made = nncf.quantize(model, calibration, advanced_parameters=advanced, **settings)
    if below:  # said here, because logging is off while NNCF works
        logger.warning(
            "    nncf_static: NNCF ended more than %g points below the float graph's dev accuracy of %.2f %%: %s",
            config.max_drop, measured["float_dev_accuracy"],
            "the best graph that it tried is taken" if measured["target_reached"] else "left in float",
        )  # fmt: skip
    if config.preset == "performance":
        _sign(made)
    dialect = graph.dialect(made)
    if dialect not in (gives(config, "standard"), "qdq", "standard"):
        raise ModelError(
            f"{path}: NNCF gave a graph of dialect {dialect}, and {gives(config, 'standard')} was to be expected",
            "exclude the nodes that got zero points, or take preset: mixed",
        )
    graph.save(made, out / "model.onnx")
    counted = sum(int(batch["input_ids"].shape[0]) for batch in samples)
    return {**int8.report(made), "calibration_samples": counted, **measured}


def _sign(model: Any) -> None:
    """Make signed integers of unsigned ones whose zero point is 0, in place: TensorRT takes no others.

    NNCF takes unsigned ones for what is never negative, such as what comes out of a ReLU. The scale grows by 255/127.
    """
    onnx = require("onnx", "torch")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    unsigned = {name for name, t in tensors.items() if t.data_type == 2 and not onnx.numpy_helper.to_array(t).any()}
    rounded = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and unsigned & {*node.input[2:]}]
    results = {node.output[0] for node in rounded}
    read = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in results]
    replaced = {name for node in rounded for name in node.input[1:]}
    made: dict[str, Any] = {}
    for node in (*rounded, *read):
        scale, zero = (onnx.numpy_helper.to_array(tensors[name]) for name in node.input[1:3])
        values = (scale * np.float32(255 / 127), zero.astype(np.int8))
        for place, value in enumerate(values, 1):
            name = f"{node.input[place]}.signed"
            made[name] = onnx.numpy_helper.from_array(value, name)
            node.input[place] = name
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used or tensor.name not in replaced]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *made.values()])
    noted = [value for value in model.graph.value_info if value.name not in results]
    del model.graph.value_info[:]
    model.graph.value_info.extend(noted)


def _controlled(
    nncf: Any, model: Any, calibration: Any, settings: dict[str, Any], advanced: Any,
    batches: list[Item], config: Config, threads: int, kind: Kind,
) -> tuple[Any, dict[str, Any], bool]:  # fmt: skip
    """Quantizes under accuracy control; the accuracies are those of the float graph and of the result.

    NNCF may end with less accuracy than it was asked to keep, which is the third thing told: then the best graph that
    it tried is taken, or the float one where none was good enough.
    """
    before, _ = dev_accuracy(kind, model, batches, threads)
    least = before - config.max_drop / 100
    best: list[Any] = [before, model.SerializeToString()]
    quantized = False

    def validate(proto: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        nonlocal quantized
        accuracy, right = dev_accuracy(kind, proto, items, threads)
        content = proto.SerializeToString() if len(right) == len(batches) and accuracy >= least else b""
        if content and content != original and (not quantized or accuracy >= best[0]):
            best[:], quantized = [accuracy, content], True
        return accuracy, right

    original = best[1]
    # NNCF gives one value per item of the validation set to its ranking, so an item is a sentence.
    made = nncf.quantize_with_accuracy_control(
        model,
        calibration,
        nncf.Dataset(batches),
        validate,
        max_drop=config.max_drop / 100,
        drop_type=nncf.DropType.ABSOLUTE,
        advanced_quantization_parameters=advanced,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            ranking_subset_size=min(config.ranking_samples, len(batches))
        ),
        **settings,
    )
    after, _ = dev_accuracy(kind, made, batches, threads)
    below = after < least
    if below:
        after, made = best[0], type(model).FromString(best[1])
    reached = graph.dialect(made) != "standard"
    return made, {"float_dev_accuracy": before * 100, "dev_accuracy": after * 100, "target_reached": reached}, below


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's messages and bars off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _nncf_errors(path: Path) -> Iterator[None]:
    """Turns NNCF's errors, which share no base class, into ours."""
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"{path}: NNCF failed: {first_line(error)}",
            "leave the node that it names out with exclude: [NAME], set smooth_quant_alpha: 0, or take static_int8",
        ) from error
