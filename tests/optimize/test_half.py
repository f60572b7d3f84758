from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.builders import context, tiny_onnx_folder
from tests.optimize.variants import FAMILIES, difference, exported, logits, made, operators, save
from toolchain.core.errors import ModelError, RecipeError
from toolchain.model import graph
from toolchain.optimize import bf16, cls_only, dynamic_int8, fp16, weight_only
from toolchain.optimize.shared import half

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16  # TensorProto's numbers

#: Of the models' logits, which lie in ±2: 11 and 8 bits of mantissa, through two layers.
CLOSE = {"fp16": 5e-3, "bf16": 5e-2}


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize(
    ("technique", "compute", "kind"),
    [(fp16, True, FLOAT16), (fp16, False, FLOAT16), (bf16, False, BFLOAT16)],
    ids=["fp16", "fp16-stored", "bf16-stored"],
)
def test_every_matrix_is_halved_once(
    technique: Any, compute: bool, kind: int, architecture: str, tmp_path: Path
) -> None:
    source = exported(architecture)
    out, metrics = made(technique, source, tmp_path / "out", compute=compute)
    before, after = (graph.load(folder / "model.onnx") for folder in (source, out))
    assert {t.data_type for t in matrices(after)} == {kind}
    assert sorted(shape(t) for t in matrices(after)) == sorted(shape(t) for t in matrices(before))
    assert metrics["half_weights"] == len(matrices(before))
    assert metrics["float_weights"] == 0
    assert size(after) == size(before) / 2
    # What reads the graph does not notice: inputs and logits keep names and types.
    assert [i.type.tensor_type.elem_type for i in after.graph.input] == [7] * len(before.graph.input)
    assert [(o.name, o.type.tensor_type.elem_type) for o in after.graph.output] == [("logits", FLOAT)]
    assert graph.dialect(after) == technique.GIVES == "standard"
    assert 0 < difference(source, out) < CLOSE[technique.__name__.rpartition(".")[2]]


def test_sums_and_exponents_are_computed_in_single_precision(tmp_path: Path) -> None:
    out, _ = made(fp16, exported("bert"), tmp_path / "out")
    model = graph.load(out / "model.onnx")
    types = {t.name: t.data_type for t in model.graph.initializer}
    types |= {
        n.output[0]: next(a.i for a in n.attribute if a.name == "to") for n in model.graph.node if n.op_type == "Cast"
    }
    read = {
        kind: {types.get(node.input[0]) for node in model.graph.node if node.op_type == kind} for kind in operators(out)
    }
    assert read["LayerNormalization"] <= {FLOAT, None}  # None: computed by a node that is wide itself
    assert FLOAT16 not in read["Softmax"]
    assert FLOAT16 in read["MatMul"]


def test_an_operator_that_overflows_stays_in_single_precision(tmp_path: Path) -> None:
    """Planted: an FFN whose first product is 1e5 times as large, and whose second undoes it."""
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    up, down, add = ffn(model)
    scale(model, up, 1e5)
    scale(model, add, 1e5)
    scale(model, down, 1e-5)
    save(folder, model)
    planted = [a for a in logits(folder)]
    assert all(np.isfinite(array).all() for array in planted)
    seen = half.magnitudes(model, folder, 8, context(tmp_path))
    assert seen[up.output[0]] > 65504  # float16's largest
    out, metrics = made(fp16, folder, tmp_path / "out", samples=8)
    assert {up.name, add.name, down.name} <= set(metrics["kept"])
    assert metrics["largest"] <= 65504 / 4
    after = graph.load(out / "model.onnx")
    types = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    wide = {node.name for node in after.graph.node if node.op_type == "MatMul" and types.get(node.input[1]) == FLOAT}
    assert wide == {up.name, down.name}
    for wanted, found in zip(planted, as_it_stands(out), strict=True):
        assert np.abs(wanted - found).max() < CLOSE["fp16"]


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_without_the_scan_that_operator_would_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    up, down, add = ffn(model)
    for node, factor in ((up, 1e6), (add, 1e6), (down, 1e-6)):
        scale(model, node, factor)
    save(folder, model)
    monkeypatch.setattr(half, "_exceeds", lambda *_: False)
    out, _ = made(fp16, folder, tmp_path / "out", samples=8)
    assert not all(np.isfinite(array).all() for array in as_it_stands(out))


def test_a_weight_that_float16_cannot_hold_stays_wide_and_bfloat16_holds_it(tmp_path: Path) -> None:
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    up, _, _ = ffn(model)
    scale(model, up, 1e7)
    save(folder, model)
    out, metrics = made(fp16, folder, tmp_path / "fp16", compute=False)
    assert metrics["kept"] == [up.name]
    assert metrics["float_weights"] == 1
    assert all(np.isfinite(array).all() for array in logits(out))
    _, metrics = made(bf16, folder, tmp_path / "bf16")
    assert metrics["kept"] == []
    assert metrics["float_weights"] == 0


def test_bfloat16_is_computed_in_on_request(tmp_path: Path) -> None:
    """ONNX Runtime's CPU provider has no such kernels, so the graph is checked, not run."""
    out, metrics = made(bf16, exported("bert"), tmp_path / "out", compute=True)
    model = graph.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    products = [node.output[0] for node in model.graph.node if node.op_type == "MatMul"]
    assert {types[name] for name in products} == {BFLOAT16}
    # The mask's lowest float32 is more than bfloat16's divided by the headroom.
    assert {node.op_type for node in model.graph.node if node.name in metrics["kept"]} <= {"Add"}


def test_excluded_weights_stay_in_single_precision(tmp_path: Path) -> None:
    model = graph.load(exported("bert") / "model.onnx")
    up, _, _ = ffn(model)
    for name, settings in (("compute", {}), ("stored", {"compute": False})):
        out, metrics = made(fp16, exported("bert"), tmp_path / name, exclude=(up.input[1],), **settings)
        types = {tensor.name: tensor.data_type for tensor in graph.load(out / "model.onnx").graph.initializer}
        assert types[up.input[1]] == FLOAT
        assert metrics["float_weights"] == 1
    with pytest.raises(RecipeError, match="nothing in the graph matches layer99") as caught:
        made(fp16, exported("bert"), tmp_path / "none", exclude=("layer99*",))
    assert up.name in caught.value.hint


def test_it_follows_cls_only_and_nothing_follows_it_that_needs_single_precision(tmp_path: Path) -> None:
    narrow, _ = made(cls_only, exported("roberta"), tmp_path / "narrow")
    out, metrics = made(fp16, narrow, tmp_path / "out")
    assert metrics["float_weights"] == 0
    assert difference(narrow, out) < CLOSE["fp16"]
    for technique in (fp16, bf16, cls_only, dynamic_int8, weight_only):
        assert (
            technique.requires(["export", "fp16"])
            == "it needs a float graph, and fp16 has narrowed it: put it before fp16"
        )
        assert technique.requires(["export"]) is None
    with pytest.raises(ModelError, match="holds half-precision weights already"):
        made(bf16, out, tmp_path / "again")


def matrices(model: Any) -> list[Any]:
    return [t for t in model.graph.initializer if len(t.dims) >= 2 and np.prod(t.dims) >= 256]


def shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.dims)


def size(model: Any) -> int:
    """Bytes of the matrices."""
    width = {FLOAT: 4, FLOAT16: 2, BFLOAT16: 2}
    return sum(width[tensor.data_type] * int(np.prod(tensor.dims)) for tensor in matrices(model))


def ffn(model: Any) -> tuple[Any, Any, Any]:
    """The first layer's products from 64 to 128 and back, and the sum with the bias between; every node is named."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    up = next(node for node in products if dims.get(node.input[1]) == (64, 128))
    down = next(node for node in products if dims.get(node.input[1]) == (128, 64))
    add = next(node for node in model.graph.node if up.output[0] in node.input)
    assert add.op_type == "Add"
    return up, down, add


def scale(model: Any, node: Any, factor: float) -> None:
    """Multiplies the constant that a node reads."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensor = next(tensors[name] for name in node.input if name in tensors)
    array = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def as_it_stands(folder: Path) -> list[Any]:
    """Logits without ONNX Runtime's optimizer, which takes a Cast away and with it the overflow."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return [array for array in logits(folder, options)]
