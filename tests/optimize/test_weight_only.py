from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.optimize.variants import FAMILIES, difference, exported, made, operators
from toolchain.core.errors import ModelError, RecipeError
from toolchain.model import graph
from toolchain.optimize import cls_only, dynamic_int8, static_int8, weight_only
from toolchain.optimize.shared import int8
from toolchain.optimize.shared.groups import group_nodes
from toolchain.optimize.weight_only import packing

#: Largest |Δlogit| of models whose logits lie in ±2. That the packed numbers are right, WEIGHT_ERROR says.
CLOSE = {8: 0.05, 4: 1.0}

#: Root mean square of the rounding over that of the weights: 32 normal numbers span 4.1 deviations, cut into 15 steps,
#: and rounding costs a step/√12: 4.1/15/√12 = 0.079. Symmetric: 7 steps on the larger side, 2.1/7/√12 = 0.087.
WEIGHT_ERROR = 0.11


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("bits", [8, 4])
def test_every_large_weight_is_packed_once(bits: int, architecture: str, tmp_path: Path) -> None:
    source = exported(architecture)
    out, metrics = made(weight_only, source, tmp_path / "out", linear_bits=bits, embedding_bits=bits)
    before, after = (graph.load(folder / "model.onnx") for folder in (source, out))
    large = {t.name: math.prod(t.dims) for t in before.graph.initializer if math.prod(t.dims) >= 4096}
    assert not {t.name for t in after.graph.initializer} & set(large)
    # ALBERT's two layers read the same six matrices: six in the file, twelve products.
    assert metrics["linear_weights"] + metrics["embeddings"] == len(large)
    read = [name for node in before.graph.node for name in node.input if name in large]
    packed = operators(out).count("MatMulNBits") + operators(out).count("GatherBlockQuantized")
    assert packed == len(read)
    assert (packed > len(large)) is (architecture == "albert")
    # Numbers, and a float32 scale for each block of 32; a zero point of the numbers' own width.
    assert bits / 8 + 4 / 32 <= metrics["bytes_per_weight"] <= bits / 8 + 4 / 32 + bits / 8 / 16
    assert metrics["parameters"] == pytest.approx(graph.parameters(before), rel=0.02)
    assert graph.dialect(after) == weight_only.GIVES == "ort"
    assert 0 < difference(source, out) < CLOSE[bits]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_no_number_of_a_table_is_off_by_more_than_half_a_step(bits: int, symmetric: bool) -> None:
    values = np.random.default_rng(0).normal(size=(40, 48)).astype(np.float32)
    values[3] = 0  # a row of padding
    tensor = onnx.numpy_helper.from_array(values, "table")
    blocks = packing.table(tensor, bits=bits, block_size=32, symmetric=symmetric)
    scale = onnx.numpy_helper.to_array(blocks.tensors[1])
    assert scale.shape == (40, 2)  # 48 numbers in a block of 32 and one of 16
    found = looked_up(blocks, len(values))
    assert np.abs(found - values).max() <= 0.5 * scale.max() + 1e-6
    # Rounding a zero point moves a whole block by up to half a step; single numbers may be off by a whole one.
    step = np.repeat(scale, 32, axis=1)[:, :48]
    assert (np.abs(found - values) <= (0.5 if symmetric else 1.0) * step + 1e-6).all()
    assert (found[3] == 0).all()


@pytest.mark.parametrize("technique", [dynamic_int8, static_int8])
def test_embeddings_have_four_bits_and_layers_eight(technique: Any, tmp_path: Path) -> None:
    settings = {"calibration_samples": 8} if technique is static_int8 else {}
    source = exported("bert")
    layers, _ = made(technique, source, tmp_path / "layers", embeddings=False, **settings)
    out, metrics = made(weight_only, layers, tmp_path / "out", linear_bits=None, embedding_bits=4)
    whole, _ = made(technique, source, tmp_path / "whole", **settings)
    assert metrics["linear_weights"] == 0
    assert metrics["embeddings"] == 2  # words and positions; two token types are too few
    assert operators(out).count("GatherBlockQuantized") == 2
    kinds = ("MatMulInteger", "QuantizeLinear")
    assert [operators(out).count(kind) for kind in kinds] == [operators(layers).count(kind) for kind in kinds]
    tables = {t.name: math.prod(t.dims) for t in graph.load(layers / "model.onnx").graph.initializer}
    gone = sum(
        tables[name] for name in tables.keys() - {t.name for t in graph.load(out / "model.onnx").graph.initializer}
    )
    # Half a byte, and to 32 numbers a float32 scale and half a byte of zero point: 0.640625, where 4 bytes were.
    assert metrics["bytes_per_weight"] == 0.640625
    assert weight_bytes(layers) - weight_bytes(out) == (4 - 0.640625) * gone
    assert (out / "model.onnx").stat().st_size < (whole / "model.onnx").stat().st_size
    assert difference(layers, out) < CLOSE[4]


def test_it_follows_cls_only_and_only_once(tmp_path: Path) -> None:
    narrow, _ = made(cls_only, exported("roberta"), tmp_path / "narrow")
    out, _ = made(weight_only, narrow, tmp_path / "out")
    assert difference(narrow, out) < CLOSE[8]
    assert weight_only.requires(["export", "cls_only"]) is None
    assert weight_only.requires(["export", "weight_only"]) == "it stands there already"
    assert "put it before fp16" in str(weight_only.requires(["export", "fp16"]))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "rtn"}, {"method": "hqq", "least_elements": 8192}, {"method": "k_quant"}, {"symmetric": True},
        {"block_size": 16}, {"products": "float"},
    ],
    ids=str,
)  # fmt: skip
def test_every_way_to_choose_scales_keeps_the_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    out, metrics = made(weight_only, exported("bert"), tmp_path / "out", linear_bits=4, embedding_bits=None, **settings)
    assert operators(out).count("MatMulNBits") == metrics["linear_weights"] > 0
    level = 0 if settings.get("products") == "float" else 4
    model = graph.load(out / "model.onnx")
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert {a.i for node in products for a in node.attribute if a.name == "accuracy_level"} == {level}
    source = int8.replace_gemm(graph.load(exported("bert") / "model.onnx"))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    packed = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in products:
        wanted = weights[node.input[1].removesuffix("_packed")]
        # The identity times a weight is what the kernel reads the weight as.
        found = run(node, [packed[name] for name in node.input[1:]], np.eye(len(wanted), dtype=np.float32))
        assert np.square(found - wanted).mean() ** 0.5 < WEIGHT_ERROR * np.square(wanted).mean() ** 0.5


@pytest.mark.parametrize(
    ("settings", "says", "advice"),
    [
        ({"linear_bits": None, "embedding_bits": None}, "both null", "4 or 8"),
        ({"method": "k_quant"}, "method k_quant has 4 bits, and linear_bits is 8", "linear_bits: 4"),
        ({"method": "hqq", "linear_bits": 4, "symmetric": True}, "method hqq fits zero points", "symmetric: false"),
        ({"method": "k_quant", "linear_bits": 4, "symmetric": True}, "method k_quant fits zero", "method: default"),
        ({"exclude": ("layer99*",)}, "nothing in the graph matches layer99", "matrix products"),
    ],
)
def test_settings_that_contradict_each_other_are_named(
    settings: dict[str, Any], says: str, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        made(weight_only, exported("bert"), tmp_path / "out", **settings)
    assert advice in caught.value.hint


def test_what_int8_took_already_is_named_with_what_to_do(tmp_path: Path) -> None:
    narrow, _ = made(dynamic_int8, exported("bert"), tmp_path / "narrow")
    with pytest.raises(ModelError, match="no linear layer of 4096 or more float weights is left") as caught:
        made(weight_only, narrow, tmp_path / "out")
    assert "linear_bits: null" in caught.value.hint
    with pytest.raises(ModelError, match="no embedding table") as caught:
        made(weight_only, narrow, tmp_path / "out", linear_bits=None)
    assert "embeddings: false" in caught.value.hint


def widths(folder: Path) -> dict[str, int]:
    """Bits of each matrix of the encoder's layers, by group; what is float is not among them."""
    before = int8.replace_gemm(graph.load(exported("bert") / "model.onnx"))
    int8.excluded_nodes(before, (), embeddings=True, attention=True)
    products = [node for node in before.graph.node if node.op_type == "MatMul"]
    groups = group_nodes(before, {node.name for node in products})
    weights = {node.name: node.input[1] for node in products}
    bits = {
        node.input[1].removesuffix("_packed"): next(a.i for a in node.attribute if a.name == "bits")
        for node in graph.load(folder / "model.onnx").graph.node if node.op_type == "MatMulNBits"
    }  # fmt: skip
    found = {group: {bits[weights[name]] for name in names if weights[name] in bits} for group, names in groups.items()}
    assert all(len(several) <= 1 for several in found.values())
    return {group: several.pop() for group, several in found.items() if several}


def test_layers_have_bits_of_their_own(tmp_path: Path) -> None:
    named: dict[str, int | None] = {"layer 0 *": 4, "layer 1 ffn": None}
    settings: dict[str, Any] = {"linear_bits": 8, "embedding_bits": None, "bits_by_group": named}
    out, metrics = made(weight_only, exported("bert"), tmp_path / "out", **settings)
    assert widths(out) == {"layer 0 attention": 4, "layer 0 ffn": 4, "layer 1 attention": 8, "classifier": 8}
    assert metrics["linear_weights"] == 6 + 4 + 1  # the classifier's own matrix, 64 × 2, is too small
    numbers = {4: 4 * 64 * 64 + 2 * 64 * 128, 8: 4 * 64 * 64 + 64 * 64}
    stored = {4: packing.stored_bytes(4), 8: packing.stored_bytes(8)}
    wanted = sum(count * stored[bits] for bits, count in numbers.items()) / sum(numbers.values())
    assert metrics["bytes_per_weight"] == pytest.approx(wanted)
    some, _ = made(weight_only, exported("bert"), tmp_path / "some", **(settings | {"linear_bits": None}))
    assert widths(some) == {"layer 0 attention": 4, "layer 0 ffn": 4}
    named["layer 0 ffn"] = 8  # a name goes before a pattern
    both, _ = made(weight_only, exported("bert"), tmp_path / "both", **settings)
    assert widths(both)["layer 0 ffn"] == 8


def test_layers_that_share_their_weights_are_one_group(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"linear_bits": None, "embedding_bits": None, "bits_by_group": {"layers 0-1 *": 4}}
    out, metrics = made(weight_only, exported("albert"), tmp_path / "out", **settings)
    assert metrics["linear_weights"] == 6
    assert operators(out).count("MatMulNBits") == 12


@pytest.mark.parametrize(
    ("named", "settings", "says", "advice"),
    [
        ({"layer 9 *": 4}, {}, r"bits_by_group: nothing fits layer 9 \*", "layer 0 attention"),
        ({"layer 0 *": 4, "* ffn": 8}, {}, "two patterns give layer 0 ffn two widths", "name it: layer 0 ffn"),
        ({"layer 0 *": 8}, {"linear_bits": 4, "method": "hqq"}, "hqq has 4 bits, and bits_by_group has an 8", ": 4"),
        ({"layer 0 *": None}, {"linear_bits": None, "embedding_bits": None}, "both null", "4 or 8"),
    ],
)
def test_bits_by_group_that_fit_nothing_are_named(
    named: dict[str, int | None], settings: dict[str, Any], says: str, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        made(weight_only, exported("bert"), tmp_path / "out", bits_by_group=named, **settings)
    assert advice in caught.value.hint


def test_excluded_weights_stay_in_floating_point(tmp_path: Path) -> None:
    model = graph.load(exported("bert") / "model.onnx")
    name = next(tensor.name for tensor in model.graph.initializer if list(tensor.dims) == [64, 128])
    _, whole = made(weight_only, exported("bert"), tmp_path / "whole")
    out, metrics = made(weight_only, exported("bert"), tmp_path / "out", exclude=(name,))
    assert name in {tensor.name for tensor in graph.load(out / "model.onnx").graph.initializer}
    assert metrics["linear_weights"] == whole["linear_weights"] - 1


def weight_bytes(folder: Path) -> int:
    tensors = graph.load(folder / "model.onnx").graph.initializer
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in tensors)


def looked_up(blocks: packing.Blocks, rows: int) -> Any:
    """Every row of a table, as ONNX Runtime's kernel gives it."""
    names = [tensor.name for tensor in blocks.tensors]
    node = onnx.helper.make_node(
        blocks.kind, [names[0], "ids", *names[1:]], ["rows"], domain="com.microsoft", **blocks.attributes
    )
    return run(node, blocks.tensors, np.arange(rows))


def run(node: Any, tensors: Any, values: Any) -> Any:
    """What one operator makes of its constants and of the one input that is none."""
    helper = onnx.helper
    known = {tensor.name for tensor in tensors}
    (free,) = (name for name in node.input if name not in known)
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    inputs = [helper.make_tensor_value_info(free, kind, values.shape)]
    outputs = [onnx.ValueInfoProto(name=node.output[0])]
    model = helper.make_model(
        helper.make_graph([node], "one", inputs, outputs, list(tensors)),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {free: values}
    )[0]
