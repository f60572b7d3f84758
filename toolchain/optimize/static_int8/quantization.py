"""Quantizes one graph, or one graph many times, with ranges that are calibrated once."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context, Metrics
from toolchain.model import graph, onnx_file
from toolchain.optimize.shared import int8
from toolchain.optimize.shared.calibration import calibration_batches
from toolchain.optimize.static_int8.correction import Means, correct_biases, input_means
from toolchain.optimize.static_int8.smoothing import channel_maxima, smooth

if TYPE_CHECKING:
    from toolchain.optimize.static_int8 import Config


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
