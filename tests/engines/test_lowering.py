from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from tests.builders import context, onnx_folder, sentences
from toolchain.engines import onnxruntime as engine
from toolchain.engines.onnxruntime import integer, lowering
from toolchain.model import graph
from toolchain.optimize import static_int8


@pytest.fixture
def symmetric(tmp_path: Path) -> Path:
    """A folder with a symmetric int8 graph."""
    out = tmp_path / "qdq"
    out.mkdir()
    static_int8.apply(onnx_folder(), out, static_int8.Config(calibration="min_max"), context(tmp_path, sentences()))
    return out


def test_a_graph_without_anything_to_fuse_is_left_alone(tmp_path: Path) -> None:
    source = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])
    nodes = [onnx.helper.make_node("Softmax", ["x"], ["p"]), onnx.helper.make_node("Tanh", ["p"], ["y"])]
    path = tmp_path / "model.onnx"
    made = onnx.helper.make_graph(nodes, "no encoder", [source], [out])
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    assert lowering.rewrite(path, tmp_path / "out", lowering.Forms()) == path
    assert lowering.counts({"Softmax": 1, "Tanh": 1}, path, lowering.Forms()) == {}


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


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_quantized_gemm_becomes_an_integer_product(transposed: int, tmp_path: Path) -> None:
    """As classifiers are written, one scale for each output channel."""
    generator = np.random.default_rng(3)
    weight = generator.integers(-100, 100, (3, 8) if transposed else (8, 3)).astype(np.int8)
    constants = {
        "weight": weight, "bias": generator.normal(size=3).astype(np.float32),
        "scale": np.array([0.01, 0.02, 0.03], np.float32), "zero": np.zeros(3, np.int8),
        "x_scale": np.array(0.05, np.float32), "x_zero": np.array(0, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["w"], axis=1 - transposed),
        helper.make_node("Gemm", ["d", "w", "bias"], ["y"], transB=transposed),
    ]
    path = tmp_path / "model.onnx"
    onnx.save(graph_of(nodes, constants, 8, 3), path)
    (tmp_path / "out").mkdir()
    lowered = lowering.rewrite(path, tmp_path / "out", lowering.Forms())
    kinds = [node.op_type for node in onnx.load(lowered).graph.node]
    assert kinds == ["QuantizeLinear", "MatMulIntegerToFloat"]
    x = generator.normal(size=(5, 8)).astype(np.float32)
    expected, found = (
        ort.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for file in (path, lowered)
    )
    assert np.abs(expected - found).max() < 0.04  # ties round either way: one step of 0.05 × 100 × 0.03 at the most
    assert np.abs(expected).max() > 1


def test_a_gemm_with_a_scale_for_each_input_is_left_as_it_is() -> None:
    """Of square weights no shape tells the two apart."""
    constants = {
        "weight": np.eye(4, dtype=np.int8), "scale": np.arange(1, 5, dtype=np.float32), "zero": np.zeros(4, np.int8),
        "x_scale": np.array(0.05, np.float32), "x_zero": np.array(128, np.uint8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["w"], axis=0),
        helper.make_node("Gemm", ["d", "w"], ["y"]),
    ]
    model = ir.from_proto(graph_of(nodes, constants, 4, 4))
    integer.lower(model)
    products = [node.op_type for node in model.graph if not node.op_type.endswith("Linear")]
    assert products == ["Gemm"]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_table_with_a_scale_for_each_row_or_column_is_looked_up_before_it_is_widened(
    axis: int, tmp_path: Path
) -> None:
    generator = np.random.default_rng(4)
    constants = {
        "table": generator.integers(-127, 128, (9, 4)).astype(np.int8),
        "scale": generator.uniform(0.01, 0.1, (9, 4)[axis]).astype(np.float32),
        "zero": np.zeros((9, 4)[axis], np.int8), "to": np.array([2, -1], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=onnx.TensorProto.INT64),
        helper.make_node("DequantizeLinear", ["table", "scale", "zero"], ["wide"], axis=axis),
        helper.make_node("Gather", ["wide", "ids"], ["looked"]),
        helper.make_node("Reshape", ["looked", "to"], ["y"]),
    ]
    before = graph_of(nodes, constants, 3, 6)
    model = ir.from_proto(before)
    assert integer.lower(model) == 1
    assert all(node.inputs[0].name != "table" for node in model.graph if node.op_type != "Gather")
    ids = np.array([[0, 8, 3], [5, 5, 1]], np.float32)
    expected, found = (
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": ids})[0]
        for proto in (before, ir.to_proto(model))
    )
    assert np.abs(expected - found).max() == 0


def graph_of(nodes: list[Any], constants: dict[str, Any], wide: int, out: int) -> onnx.ModelProto:
    kind = onnx.TensorProto.FLOAT
    made = helper.make_graph(
        nodes, "part", [helper.make_tensor_value_info("x", kind, ["batch", wide])],
        [helper.make_tensor_value_info("y", kind, ["batch", out])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
