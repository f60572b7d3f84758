"""Int8 weights and activations with ranges calibrated on training sentences (ONNX Runtime's Q/DQ format).

``x ≈ s·(q − z)``: ``s`` and ``z`` come from the values seen while the float graph reads calibration sentences;
symmetric means ``z = 0``, which OpenVINO and TensorRT take too (dialect ``qdq``). Jacob et al., arXiv 1712.05877; the
ways to choose a range are compared by Wu et al., arXiv 2004.09602: ``min_max`` keeps every value, ``percentile`` cuts
the tails, and ``entropy`` minimizes the Kullback-Leibler divergence between the two distributions.
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, StageConfig
from toolchain.model import checkpoint, graph, onnx_file
from toolchain.optimize import _half, _int8

VERSION = 1
LIBRARIES = ("onnxruntime", "onnx")
TAKES = ("standard",)
AGREEMENT = 0.98


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
        exclude: Nodes, or weights, that stay in floating point: names or shell patterns.
    """

    calibration: Literal["min_max", "percentile", "entropy"] = "percentile"
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    percentile: Annotated[float, Gt(50), Le(100)] = 99.99
    symmetric: bool = True
    per_channel: bool = True
    embeddings: bool = True
    attention: bool = False
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()


def gives(config: Config, taken: str) -> str:
    """``qdq`` when symmetric: every engine takes it; else ``qdq-asymmetric``, whatever was taken."""
    return "qdq" if config.symmetric else "qdq-asymmetric"


def requires(history: Sequence[str]) -> str | None:
    """It quantizes single precision."""
    return _half.refusal(history)


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Calibrates and quantizes ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard`` and its tokenizer.
        out: Folder to write.
        config: Settings.
        context: Gives the training sentences.

    Returns:
        nodes, parameters, int8_weights, float_weights, calibration_samples.
    """
    model = _int8.replace_gemm(_int8.load_float(source / "model.onnx"))
    excluded = _int8.excluded_nodes(model, config.exclude, embeddings=config.embeddings, attention=config.attention)
    samples = calibration_batches(source, config.calibration_samples, context)
    with tempfile.TemporaryDirectory(dir=context.work) as folder, _int8.quantizer_errors(source / "model.onnx"):
        prepared = Path(folder) / "model.onnx"
        graph.save(model, prepared)
        del model
        ranges = calibrate(prepared, Path(folder), samples, config)
        quantize(prepared, ranges, out / "model.onnx", config, excluded)
    return _int8.report(graph.load(out / "model.onnx")) | {"calibration_samples": sum(map(_rows, samples))}


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
    import numpy as np
    from tokenizers import Tokenizer

    interface = checkpoint.read_json(source / "interface.json")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(interface["max_length"]))
    texts = context.dataset().train.texts
    chosen = random.Random(context.seed).sample(range(len(texts)), min(samples, len(texts)))
    encoded = tokenizer.encode_batch([texts[i] if len(texts[i]) > 1 else texts[i][0] for i in chosen])
    encoded.sort(key=lambda item: len(item.ids))

    def batch(items: Sequence[Any]) -> dict[str, Any]:
        columns = {
            "input_ids": [item.ids for item in items],
            "attention_mask": [item.attention_mask for item in items],
            "token_type_ids": [item.type_ids for item in items],
        }
        return {name: np.array(columns[name], dtype=np.int64) for name in interface["inputs"]}

    made, current = [], encoded[:1]
    for item in encoded[1:]:
        if len(item.ids) != len(current[0].ids) or len(current) == 16:
            made.append(batch(current))
            current = []
        current.append(item)
    return [*made, batch(current)]


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
