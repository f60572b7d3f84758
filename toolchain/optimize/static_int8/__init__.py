"""Int8 weights and activations with ranges calibrated on training sentences (ONNX Runtime's Q/DQ format).

``x ≈ s·(q − z)``: ``s`` and ``z`` come from the values seen while the float graph reads calibration sentences;
symmetric means ``z = 0``, which OpenVINO and TensorRT take too (dialect ``qdq``). Jacob et al., arXiv 1712.05877; the
ways to choose a range are compared by Wu et al., arXiv 2004.09602: ``min_max`` keeps every value, ``percentile`` cuts
the tails, and ``entropy`` minimizes the Kullback-Leibler divergence between the two distributions. In an encoder the
tails are not noise: a few channels are very large at one or two tokens of each text. The longer the texts, the smaller
their share, until a percentile cuts them all off. So outliers of activations are smoothed into the weights before
(SmoothQuant, arXiv 2211.10438): a Mul before the products, a few percent of the engine's time. After, biases take up
what rounding shifts (arXiv 1906.04721, section 4.2).
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, StageConfig
from toolchain.model import graph, onnx_file, tokens
from toolchain.optimize.shared import half, int8
from toolchain.optimize.static_int8.correction import Means, correct_biases, input_means
from toolchain.optimize.static_int8.smoothing import channel_maxima, smooth

VERSION = 3
LIBRARIES = ("onnxruntime", "onnx")
TAKES = ("standard",)
AGREEMENT = 0.98

#: It quantizes single precision.
requires = half.refusal


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of static quantization.

    Attributes:
        calibration: How an activation's range is chosen.
        calibration_samples: Training sentences to read.
        percentile: With ``percentile``: the part of values, in percent, that the range covers.
        symmetric: Activations int8 around zero (dialect ``qdq``); otherwise uint8 with a zero point
            (``qdq-asymmetric``).
        per_channel: One weight scale per output channel instead of one per weight.
        embeddings: Quantize the embedding tables too.
        attention: Quantize the two products inside attention too.
        reduce_range: 7-bit weights, for CPUs whose int8 products saturate (AVX2 and AVX-512 without VNNI).
        smooth: How far outliers move from activations (0) into weights (1) before; 0 leaves them.
        correct_biases: Take what quantization shifts in the mean of a product out of its bias.
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns.
    """

    calibration: Literal["min_max", "percentile", "entropy"] = "min_max"
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    percentile: Annotated[float, Gt(50), Le(100)] = 99.999
    symmetric: bool = True
    per_channel: bool = True
    embeddings: bool = True
    attention: bool = False
    reduce_range: bool = False
    smooth: Annotated[float, Ge(0), Le(1)] = 0.8
    correct_biases: bool = True
    exclude: tuple[str, ...] = ()


def gives(config: Config, taken: str) -> str:
    """``qdq`` when symmetric: every engine takes it; else ``qdq-asymmetric``, whatever was taken."""
    return "qdq" if config.symmetric else "qdq-asymmetric"


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Calibrates and quantizes ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard`` and its tokenizer.
        out: Folder to write.
        config: Settings.
        context: Gives the training sentences.

    Returns:
        nodes, parameters, int8_weights, float_weights, calibration_samples, corrected_biases, smoothed_inputs.
    """
    path = source / "model.onnx"
    model = int8.replace_gemm(int8.load_float(path))
    parameters = graph.parameters(model)
    excluded = int8.excluded_nodes(model, config.exclude, embeddings=config.embeddings, attention=config.attention)
    with tempfile.TemporaryDirectory(dir=context.work) as folder:
        quantization = Quantization(source, model, excluded, config, context, Path(folder))
        counted = quantization.write(out / "model.onnx", excluded)
    counted |= {"parameters": parameters, "calibration_samples": sum(map(_rows, quantization.samples))}
    return int8.report(graph.load(out / "model.onnx")) | counted


class Quantization:
    """One graph to be quantized once or, with other nodes left out, many times; calibration texts are read once.

    Args:
        source: Folder with the graph's tokenizer and interface.
        model: The float graph, without Gemm, every node named; it is not changed.
        excluded: Names of nodes that always stay in floating point.
        config: Settings.
        context: Gives the training texts.
        folder: Where to keep the ranges; those that are there are taken.
    """

    def __init__(
        self, source: Path, model: Any, excluded: Sequence[str], config: Config, context: Context, folder: Path
    ) -> None:
        self._source, self._path, self._model, self._excluded = source, source / "model.onnx", model, excluded
        self._config, self._context, self._folder = config, context, folder
        self._means: dict[str, Means] = {}

    def write(self, target: Path, excluded: Sequence[str]) -> Metrics:
        """Quantize.

        Args:
            target: The file to write.
            excluded: Names of nodes that stay in floating point: those that always do, and others.

        Returns:
            corrected_biases, smoothed_inputs.
        """
        ranges = self._ranges
        with tempfile.TemporaryDirectory(dir=self._context.work) as folder, int8.quantizer_errors(self._path):
            prepared, smoothed = self._smoothed(excluded)
            graph.save(prepared, Path(folder) / "model.onnx")
            quantize(Path(folder) / "model.onnx", ranges, target, self._config, excluded)
        corrected = 0
        if self._config.correct_biases:
            quantized = graph.load(target)
            self._means |= input_means(quantized, self._full, self._path, self.samples, self._context, self._means)
            corrected = correct_biases(quantized, prepared, self._means)
            graph.save(quantized, target)
        return {"corrected_biases": corrected, "smoothed_inputs": smoothed}

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """The calibration texts in batches."""
        return calibration_batches(self._source, self._config.calibration_samples, self._context)

    @cached_property
    def _maxima(self) -> dict[str, Any]:
        return channel_maxima(self._model, self._path, self.samples, self._excluded, self._context)

    @cached_property
    def _full(self) -> Any:
        """The float graph with every input smoothed that may be; ranges and means are measured on it alone."""
        return self._smoothed(self._excluded)[0]

    @cached_property
    def _ranges(self) -> Path:
        path = self._folder / "ranges.json"
        if not path.is_file():
            with tempfile.TemporaryDirectory(dir=self._context.work) as folder, int8.quantizer_errors(self._path):
                prepared = Path(folder) / "model.onnx"
                graph.save(self._full, prepared)
                calibrate(prepared, Path(folder), self.samples, self._config).replace(path)
        return path

    def _smoothed(self, excluded: Sequence[str]) -> tuple[Any, int]:
        """Return the float graph with smoothed inputs, and how many there are."""
        copy = type(self._model)()
        copy.CopyFrom(self._model)
        return copy, smooth(copy, self._maxima, self._config.smooth, excluded) if self._config.smooth else 0


def quantize(prepared: Path, ranges: Path, target: Path, config: Config, excluded: Sequence[str]) -> None:
    """Quantizes a graph whose ranges are known.

    Args:
        prepared: The float graph, without Gemm, every node named.
        ranges: What ``calibrate`` wrote.
        target: The file to write.
        config: Settings.
        excluded: Names of nodes that stay in floating point.
    """
    quantization = require("onnxruntime.quantization", "cpu")
    onnx = require("onnx", "torch")
    narrow, wide = quantization.QuantType.QInt8, quantization.QuantType.QUInt8
    quantization.quantize_static(
        prepared,
        target,
        None,
        calibration_cache_path=ranges,
        calibrate_method=_method(config),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=config.per_channel,
        reduce_range=config.reduce_range,
        activation_type=narrow if config.symmetric else wide,
        weight_type=narrow,
        nodes_to_exclude=list(excluded),
        use_external_data_format=onnx_file.inspect(prepared).bytes > graph.MAX_BYTES,
        extra_options={
            "ActivationSymmetric": config.symmetric,
            "WeightSymmetric": True,
            # The bias and what follows are computed in float: a second rounding there costs accuracy and no time.
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            "DefaultTensorType": onnx.TensorProto.FLOAT,
        },
    )


def calibration_batches(source: Path, samples: int, context: Context) -> list[dict[str, Any]]:
    """Tokenized training sentences in batches of equal length, because padding would widen the ranges.

    Args:
        source: Folder with tokenizer and interface.
        samples: Sentences to draw, seeded.
        context: Gives seed and data.

    Returns:
        Batches of at most 16 sentences, each input ``[batch, tokens]`` int64.
    """
    texts = context.dataset().train.texts
    chosen = random.Random(context.seed).sample(range(len(texts)), min(samples, len(texts)))
    encoded = tokens.encode(source, [texts[index] for index in chosen])
    return [tokens.padded(source, [encoded[i] for i in group]) for group in tokens.by_length(encoded, 16)]


def calibrate(model: Path, folder: Path, samples: list[dict[str, Any]], config: Config) -> Path:
    """Runs the float graph on the samples and writes each activation's range.

    Args:
        model: The float graph.
        folder: Where to write, and to work.
        samples: Batches of inputs.
        config: Settings.

    Returns:
        The file with the ranges.
    """
    calibration = require("onnxruntime.quantization.calibrate", "cpu")
    quantize = require("onnxruntime.quantization.quantize", "cpu")
    options = {"percentile": config.percentile} if config.calibration == "percentile" else {}
    calibrator = calibration.create_calibrator(
        model,
        ["MatMul", "Gather"],
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=_method(config),
        extra_options=options | {"symmetric": config.symmetric},
    )
    with progress("calibrating", len(samples)) as bar:
        for batch in samples:  # one at a time: bounds memory, and the histograms cannot mix shapes
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
                calibrator.collect_data(_reader(batch))
            bar.advance()
    path = folder / "ranges.json"
    with contextlib.redirect_stdout(io.StringIO()):
        quantize.save_tensors_data(calibrator.compute_data(), path)
    return path


def _reader(batch: dict[str, Any]) -> Any:
    calibrate = require("onnxruntime.quantization.calibrate", "cpu")

    class Reader(calibrate.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left: Iterator[dict[str, Any]] = iter([batch])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    return Reader()


def _method(config: Config) -> Any:
    methods = require("onnxruntime.quantization", "cpu").CalibrationMethod
    return {"min_max": methods.MinMax, "percentile": methods.Percentile, "entropy": methods.Entropy}[config.calibration]


def _rows(batch: dict[str, Any]) -> int:
    return int(batch["input_ids"].shape[0])
