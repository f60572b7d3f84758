from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import onnx_folder, tiny_onnx_folder
from tests.optimize.variants import FAMILIES, difference, exported, made, operators, save
from toolchain.core.errors import ModelError
from toolchain.model import graph
from toolchain.optimize import clean, dynamic_int8, static_int8, weight_only

helper = onnx.helper


@pytest.mark.parametrize("architecture", FAMILIES)
def test_logits_stay_the_same_and_no_weight_is_copied(architecture: str, tmp_path: Path) -> None:
    out, metrics = made(clean, exported(architecture), tmp_path / "out")
    # What is folded is computed by the same operators, only earlier.
    assert difference(exported(architecture), out) < 1e-6
    before, after = (graph.load(folder / "model.onnx") for folder in (exported(architecture), out))
    assert graph.parameters(after) <= graph.parameters(before)
    assert weight_bytes(out) <= weight_bytes(exported(architecture))
    assert metrics["nodes"] == len(after.graph.node) == len(before.graph.node) - metrics["nodes_removed"]


def test_what_computes_nothing_goes(tmp_path: Path) -> None:
    """Planted: an identity, a double, a sum of constants, a chain that nobody reads, and a second copy of a weight."""
    folder = tiny_onnx_folder(tmp_path)
    clean_before = operators(made(clean, folder, tmp_path / "before")[0])
    model = graph.load(folder / "model.onnx")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    product = next(node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights)
    copy = onnx.TensorProto()
    copy.CopyFrom(weights[product.input[1]])
    copy.name = "second.copy"
    model.graph.initializer.append(copy)
    for name, value in (("half.a", 0.25), ("half.b", -0.25)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    end = model.graph.output[0].name
    last = next(node for node in model.graph.node if node.output[0] == end)
    last.output[0] = "planted.logits"
    model.graph.node.extend([
        helper.make_node("MatMul", [product.input[0], "second.copy"], ["double"]),
        helper.make_node("Sub", ["double", product.output[0]], ["nothing.read"]),
        helper.make_node("Exp", ["nothing.read"], ["nobody.reads"]),
        helper.make_node("Add", ["half.a", "half.b"], ["zero"]),
        helper.make_node("Identity", ["planted.logits"], ["same.logits"]),
        helper.make_node("Add", ["same.logits", "zero"], [end]),
    ])  # fmt: skip
    save(folder, model)
    out, metrics = made(clean, folder, tmp_path / "out")
    # The Add stays: that its constant is zero, only the values tell. Five planted nodes of six are gone.
    assert Counter(operators(out)) - Counter(clean_before) == Counter(["Add"])
    assert metrics["nodes_removed"] >= 5
    names = {tensor.name for tensor in graph.load(out / "model.onnx").graph.initializer}
    assert not names & {"second.copy", "half.a", "half.b"}
    assert difference(onnx_folder(), out) < 1e-6


@pytest.mark.parametrize(
    ("technique", "settings", "dialect", "kept"),
    [
        (static_int8, {"calibration_samples": 8}, "qdq", "DequantizeLinear"),
        (static_int8, {"calibration_samples": 8, "symmetric": False}, "qdq-asymmetric", "DequantizeLinear"),
        (dynamic_int8, {}, "ort", "MatMulInteger"),
        (weight_only, {}, "ort", "MatMulNBits"),
    ],
)
def test_quantized_graphs_stay_quantized(
    technique: Any, settings: dict[str, Any], dialect: str, kept: str, tmp_path: Path
) -> None:
    narrow, _ = made(technique, exported("albert"), tmp_path / "narrow", **settings)
    out, _ = made(clean, narrow, tmp_path / "out")
    assert graph.dialect(graph.load(out / "model.onnx")) == dialect == clean.gives(clean.Config(), dialect)
    assert operators(out).count(kept) == operators(narrow).count(kept) > 0
    assert weight_bytes(out) <= weight_bytes(narrow)
    assert difference(narrow, out) < 1e-5


def test_a_constant_that_would_be_large_stays_computed(tmp_path: Path) -> None:
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    end = model.graph.output[0].name
    next(node for node in model.graph.node if node.output[0] == end).output[0] = "planted.logits"
    for name, array in (("shape", np.array([1000, 2])), ("axis", np.array([0])), ("zero", np.zeros(1, np.float32))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.node.extend([
        helper.make_node("Expand", ["zero", "shape"], ["large"]),
        helper.make_node("ReduceSum", ["large", "axis"], ["sum"], keepdims=0),
        helper.make_node("Add", ["planted.logits", "sum"], [end]),
    ])  # fmt: skip
    save(folder, model)
    stays, _ = made(clean, folder, tmp_path / "stays", largest_constant=1000)
    folds, _ = made(clean, folder, tmp_path / "folds", largest_constant=2000)
    assert Counter(operators(stays)) - Counter(operators(folds)) == Counter(["Expand", "ReduceSum"])
    assert difference(onnx_folder(), stays) == difference(onnx_folder(), folds)


def test_an_invalid_graph_is_named_with_what_to_do(tmp_path: Path) -> None:
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    model.graph.node[0].input[0] = "made.by.nobody"
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, helper.make_node("Abs", ["abs.in"], ["abs.in"])])
    save(folder, model)
    with pytest.raises(ModelError, match="cleaning failed") as caught:
        made(clean, folder, tmp_path / "out")
    assert "take clean out" in caught.value.hint


def weight_bytes(folder: Path) -> int:
    """Bytes of the numbers of matrices."""
    tensors = graph.load(folder / "model.onnx").graph.initializer
    found = [onnx.numpy_helper.to_array(tensor).nbytes for tensor in tensors if len(tensor.dims) > 1]
    assert found
    return sum(found)


def test_a_graph_that_the_library_cannot_take_in_is_named(tmp_path: Path) -> None:
    """As a stranger's may be: with a tensor of a type that there is not."""
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    model.graph.node[0].attribute.add(name="broken", type=onnx.AttributeProto.GRAPH)
    model.graph.node[0].attribute[-1].g.initializer.add(data_type=99, name="w")
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ModelError, match="cleaning failed"):
        made(clean, folder, tmp_path / "out")
