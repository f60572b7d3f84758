from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.builders import context, onnx_folder, sentences
from toolchain.engines import _lowering
from toolchain.engines import onnxruntime as engine
from toolchain.model import graph
from toolchain.optimize import static_int8


@pytest.fixture
def symmetric(tmp_path: Path) -> Path:
    """A folder with a symmetric int8 graph."""
    out = tmp_path / "qdq"
    out.mkdir()
    static_int8.apply(onnx_folder(), out, static_int8.Config(calibration="min_max"), context(tmp_path, sentences()))
    return out


def logits(path: Path) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph as written
    session = ort.InferenceSession(str(path), options)
    ids = np.random.default_rng(1).integers(4, 60, (4, 12))
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return session.run(None, {item.name: values[item.name] for item in session.get_inputs()})[0]


def test_rewriting_does_not_change_the_numbers(symmetric: Path, tmp_path: Path) -> None:
    model = graph.load(symmetric / "model.onnx")
    activations = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert _lowering.unsigned_activations(model) == activations > 0
    assert _lowering.lookup_before_dequantizing(model) == 3  # words, positions, token types
    onnx.save(model, str(tmp_path / "rewritten.onnx"))
    assert np.abs(logits(symmetric / "model.onnx") - logits(tmp_path / "rewritten.onnx")).max() < 1e-6


def test_a_float_graph_is_left_alone(tmp_path: Path) -> None:
    path = onnx_folder() / "model.onnx"
    assert _lowering.rewritten(path, tmp_path) == path


def test_no_weight_is_turned_back_into_floats_at_run_time(symmetric: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    out.mkdir()
    engine.build(symmetric, out, engine.Config(), context(tmp_path))
    model = graph.load(out / "model.onnx")
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    widened = [n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in matrices]
    fused = sum(node.op_type in ("MatMulIntegerToFloat", "QLinearMatMul") for node in model.graph.node)
    assert fused >= 12  # six products in each of two layers
    assert len(widened) <= 1  # the classifier's, whose product ONNX Runtime keeps in floats
