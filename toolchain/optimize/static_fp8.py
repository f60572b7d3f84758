"""FP8 weights and activations (E4M3) with calibrated scales, for GPUs from Ada and Hopper on (TensorRT).

``x ≈ s·f`` with ``f`` of 4 bits of exponent and 3 of mantissa, at most 448, and ``s = max|x| / 448``: one scale for
each weight, and one for each input of products, from the largest number that it takes on training sentences
(Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433). Steps are relative, so that outliers need no
smoothing, and there are no zero points. Behind ``fp16`` everything between the products is in half precision. Products
of two activations and embeddings stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from toolchain.core.errors import ModelError, require
from toolchain.core.log import progress
from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.model import graph
from toolchain.optimize.shared import int8, observation
from toolchain.optimize.shared.calibration import calibration_batches

VERSION = 1
LIBRARIES = ("onnx", "onnxruntime")
TAKES = ("standard",)
GIVES = "qdq-fp8"
AGREEMENT = 0.98
METHOD = "quantized"

#: The largest number of E4M3.
_LARGEST = 448.0

#: The first operator set whose Q/DQ pairs take FP8.
_LEAST_OPSET = 19


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of FP8.

    Attributes:
        calibration_samples: Training sentences to read.
        exclude: Products, or weights, that stay in floating point: names or shell patterns.
    """

    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    exclude: tuple[str, ...] = ()


def requires(history: Sequence[str]) -> str | None:
    """FP8 takes single and half precision: ONNX Runtime, which calibrates, computes no bfloat16."""
    return "it is calibrated in single or half precision, and bf16 is neither" if "bf16" in history else None


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Calibrates and quantizes ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard``, in single or half precision, and its tokenizer.
        out: Folder to write.
        config: Settings.
        context: Gives the training sentences.

    Returns:
        nodes, parameters, fp8_weights, float_weights (matrices), calibration_samples.

    Raises:
        ModelError: The graph is quantized already, of too low an operator set, or has no product with a weight.
        RecipeError: An exclusion matches nothing.
    """
    path = source / "model.onnx"
    model = int8.load_float(path)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < _LEAST_OPSET:
        raise ModelError(
            f"{path} is of operator set {opset}, whose Q/DQ pairs take no FP8",
            f"export: {{opset: {_LEAST_OPSET}}} or more",
        )
    model = int8.replace_gemm(model)
    excluded = set(int8.excluded_nodes(model, config.exclude, embeddings=False))
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.name not in excluded]
    if not products:
        raise ModelError(
            f"{path} has no matrix product with a weight that could be FP8 and is not excluded",
            "exclude less, or take static_fp8 out",
        )
    samples = calibration_batches(source, config.calibration_samples, context)
    _quantize(model, products, _largest_inputs(model, path, products, samples, context))
    graph.save(model, out / "model.onnx")
    matrices = [tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) >= 2]
    narrow = matrices.count(require("onnx", "torch").TensorProto.FLOAT8E4M3FN)
    return {
        "nodes": len(model.graph.node),
        "parameters": graph.parameters(model),
        "fp8_weights": narrow,
        "float_weights": len(matrices) - narrow,
        "calibration_samples": sum(len(batch["input_ids"]) for batch in samples),
    }


def _largest_inputs(
    model: Any, path: Path, products: Sequence[Any], samples: Sequence[Mapping[str, Any]], context: Context
) -> dict[str, float]:
    """The largest |number| of each input of products.

    Args:
        model: The graph.
        path: What to call it in an error.
        products: Nodes whose first input is looked at.
        samples: Batches of inputs without padding.
        context: Threads, and a folder for temporary files.
    """
    found = dict.fromkeys((node.input[0] for node in products), 0.0)
    with observation.every_value(model, path, context, found) as session, progress("calibrating", len(samples)) as bar:
        for batch in samples:
            seen = session.run(batch, found)
            found = {name: max(most, float(np.abs(seen[name]).max())) for name, most in found.items()}
            bar.advance()
    return found


def _quantize(model: Any, products: Sequence[Any], largest: Mapping[str, float]) -> None:
    """Puts a Q/DQ pair before each product's input, and its weight in FP8, in place.

    Args:
        model: The graph.
        products: MatMul nodes with a weight; inputs and weights that several read are quantized once.
        largest: The largest |number| of each input.
    """
    onnx = require("onnx", "torch")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    kind, helper = onnx.TensorProto.FLOAT8E4M3FN, onnx.helper
    zero = helper.make_tensor("fp8.zero", kind, [], b"\0", raw=True)
    made: list[Any] = [zero]
    before: dict[int, list[Any]] = {}
    chosen = {id(node) for node in products}
    done: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if id(node) not in chosen:
            continue
        name, weight = node.input
        values = onnx.numpy_helper.to_array(tensors[weight])
        if name not in done:
            scale = _scale(largest[name], values.dtype)
            made.append(onnx.numpy_helper.from_array(scale, f"{name}.fp8_scale"))
            quantized, pair = f"{name}.fp8", [f"{name}.fp8_scale", zero.name]
            before.setdefault(index, []).extend((
                helper.make_node("QuantizeLinear", [name, *pair], [quantized], name=f"{name}.quantize"),
                helper.make_node("DequantizeLinear", [quantized, *pair], [f"{quantized}.wide"], name=f"{name}.widen"),
            ))  # fmt: skip
        if weight not in done:
            scale = _scale(float(np.abs(values).max()), values.dtype)
            narrow = np.clip(values.astype(np.float32) / np.float32(scale), -_LARGEST, _LARGEST)
            narrow = narrow.astype(require("ml_dtypes", "torch").float8_e4m3fn)
            made.append(helper.make_tensor(f"{weight}.fp8", kind, values.shape, narrow.tobytes(), raw=True))
            made.append(onnx.numpy_helper.from_array(scale, f"{weight}.fp8_scale"))
            pair = [f"{weight}.fp8_scale", zero.name]
            before.setdefault(index, []).append(
                helper.make_node(
                    "DequantizeLinear", [f"{weight}.fp8", *pair], [f"{weight}.fp8.wide"], name=f"{weight}.widen"
                )
            )
        done |= {name, weight}
        node.input[:] = [f"{name}.fp8.wide", f"{weight}.fp8.wide"]
    for index in sorted(before, reverse=True):  # from the last to the first, so that positions hold
        for node in reversed(before[index]):
            model.graph.node.insert(index, node)
    model.graph.initializer.extend(made)
    read = {name for node in model.graph.node for name in node.input}
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in read:
            del model.graph.initializer[index]


def _scale(largest: float, kind: Any) -> Any:
    """The scale of numbers up to so much, in the type that they are of; never zero."""
    return np.array(max(largest / _LARGEST, float(np.finfo(kind).tiny)), dtype=kind)
