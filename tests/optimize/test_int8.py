from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.builders import context, exact_options, onnx_folder, sentences
from toolchain.core.errors import ModelError, RecipeError
from toolchain.model import graph
from toolchain.optimize import dynamic_int8, static_int8
from toolchain.optimize.shared import int8
from toolchain.optimize.shared.calibration import calibration_batches

DATA = sentences()


def quantized(folder: Path, technique: Any, architecture: str = "bert", **settings: Any) -> tuple[Any, dict[str, Any]]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    config = technique.Config(**settings)
    metrics = technique.apply(onnx_folder(architecture), out, config, context(folder, DATA))
    return graph.load(out / "model.onnx"), metrics


def logits(model: Any) -> Any:
    session = ort.InferenceSession(model if isinstance(model, str) else model.SerializeToString(), exact_options())
    ids = np.random.default_rng(0).integers(4, 60, (4, 12))
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return session.run(None, {item.name: values[item.name] for item in session.get_inputs()})[0]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
@pytest.mark.parametrize("technique", [dynamic_int8, static_int8])
def test_every_large_weight_becomes_int8_once(technique: Any, architecture: str, tmp_path: Path) -> None:
    before = onnx_folder(architecture) / "model.onnx"
    model, metrics = quantized(tmp_path, technique, architecture)
    large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= 4096]
    assert large
    assert {tensor.data_type for tensor in large} <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, 7}
    matrices = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
    numbers = sum(int(np.prod(tensor.dims)) for tensor in matrices)
    assert sum(len(onnx.numpy_helper.to_array(tensor).tobytes()) for tensor in matrices) < 1.05 * numbers
    assert metrics["parameters"] == pytest.approx(graph.parameters(graph.load(before)), rel=0.02)


@pytest.mark.parametrize(
    ("settings", "dialect"),
    [
        ({}, "qdq"),
        ({"symmetric": False}, "qdq-asymmetric"),
        ({"calibration": "min_max"}, "qdq"),
        ({"calibration": "entropy"}, "qdq"),
    ],
)
def test_static_int8_gives_the_dialect_that_it_declares(settings: Any, dialect: str, tmp_path: Path) -> None:
    model, _ = quantized(tmp_path, static_int8, calibration_samples=8, **settings)
    assert graph.dialect(model) == dialect == static_int8.gives(static_int8.Config(**settings), "standard")
    # Entropy cuts the most; a graph that lost its weights is off by about 1.
    assert np.abs(logits(model) - logits(str(onnx_folder() / "model.onnx"))).max() < 0.2


def test_embeddings_can_stay_in_floating_point(tmp_path: Path) -> None:
    model, _ = quantized(tmp_path, dynamic_int8, embeddings=False)
    tables = [n.input[0] for n in model.graph.node if n.op_type == "Gather"]
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.FLOAT in {kinds.get(name) for name in tables}


@pytest.mark.parametrize("technique", [dynamic_int8, static_int8])
def test_excluded_weights_stay_in_floating_point(technique: Any, tmp_path: Path) -> None:
    source = graph.load(onnx_folder() / "model.onnx")
    weights = {tensor.name for tensor in source.graph.initializer}
    first = next(n for n in source.graph.node if n.op_type == "MatMul" and n.input[1] in weights)
    model, metrics = quantized(tmp_path, technique, exclude=(first.input[1],))
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds[first.input[1]] == onnx.TensorProto.FLOAT
    assert metrics["float_weights"] >= 1


def test_an_exclusion_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nothing in the graph matches layer99"):
        quantized(tmp_path, dynamic_int8, exclude=("layer99*",))


def test_a_quantized_graph_is_not_quantized_again(tmp_path: Path) -> None:
    quantized(tmp_path, dynamic_int8)
    with pytest.raises(ModelError, match="quantized or fused already"):
        int8.load_float(tmp_path / "out/model.onnx")


def test_calibration_batches_hold_no_padding(tmp_path: Path) -> None:
    batches = calibration_batches(onnx_folder(), 20, context(tmp_path, DATA))
    assert sum(batch["input_ids"].shape[0] for batch in batches) == 20
    assert all(batch["attention_mask"].all() for batch in batches)


def test_attention_products_are_quantized_on_request(tmp_path: Path) -> None:
    plain = Counter(n.op_type for n in quantized(tmp_path, static_int8, calibration="min_max")[0].graph.node)
    full = quantized(tmp_path, static_int8, calibration="min_max", attention=True)[0]
    assert Counter(n.op_type for n in full.graph.node)["QuantizeLinear"] > plain["QuantizeLinear"]
