from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.builders import MAX_LENGTH, context, onnx_folder, tiny_onnx_folder
from tests.optimize.variants import FAMILIES, difference, exported, made, operators, save
from toolchain.core.errors import ModelError
from toolchain.model import graph
from toolchain.optimize import cls_only, dynamic_int8, fp16, static_int8
from toolchain.optimize.shared import observation

helper = onnx.helper


@pytest.mark.parametrize(
    ("export", "architecture"),
    [*((exported, family) for family in FAMILIES), (onnx_folder, "bert")],
    ids=[*(f"eager-{family}" for family in FAMILIES), "sdpa-bert"],
)
def test_logits_stay_the_same_at_every_shape_and_padding(export: Any, architecture: str, tmp_path: Path) -> None:
    out, metrics = made(cls_only, export(architecture), tmp_path / "out")
    # Rounding alone: one row of a product is summed in another order than many.
    assert difference(export(architecture), out) < 1e-5
    # Query, two products in attention, output projection, two of the FFN.
    assert metrics["narrowed"] == 6
    assert graph.dialect(graph.load(out / "model.onnx")) == "standard"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_last_layer_has_one_query_and_all_keys(architecture: str, tmp_path: Path) -> None:
    out, _ = made(cls_only, exported(architecture), tmp_path / "out")
    shapes = ran(out, rows=3, tokens=9)
    softmax = [shape for kind, shape in shapes if kind == "Softmax"]
    assert softmax == [(3, 4, 9, 9), (3, 4, 1, 9)]  # [batch, heads, queries, keys]
    # Of two layers with a layer-norm after attention and after the FFN, the last layer's two hold one token.
    norms = [shape for kind, shape in shapes if kind == "LayerNormalization"]
    assert norms[-2:] == [(3, 1, 64), (3, 1, 64)]
    assert {shape[1] for shape in norms[:-2]} == {9}
    kinds = Counter(operators(exported(architecture)))
    narrow = Counter(operators(out))
    assert {k: narrow[k] for k in ("MatMul", "LayerNormalization", "Softmax")} == {
        k: kinds[k] for k in ("MatMul", "LayerNormalization", "Softmax")
    }


def test_flops_are_those_of_the_products_and_the_saving_is_exact(tmp_path: Path) -> None:
    tokens = observation.mean_tokens(exported("bert"), context(tmp_path))
    _, metrics = made(cls_only, exported("bert"), tmp_path / "out")
    # A layer, 64 wide with an FFN of 128: 4 projections, 2 products of scores and values, 2 of the FFN, each 2·M·N·K.
    per_token = 2 * (2 * 64 * 64 + 2 * 64 * tokens + 2 * 64 * 128)  # query and output, attention, FFN
    assert metrics["flops_saved"] == per_token * (tokens - 1)
    layer = tokens * (per_token + 2 * 2 * 64 * 64)
    assert metrics["flops"] + metrics["flops_saved"] == 2 * layer + 2 * (64 * 64 + 64 * 2)  # pooler and classifier


@pytest.mark.parametrize("architecture", ["albert", "bert"])
def test_weights_stay_as_they_are_and_shared_ones_stay_shared(architecture: str, tmp_path: Path) -> None:
    out, _ = made(cls_only, exported(architecture), tmp_path / "out")

    def weights(folder: Path) -> dict[str, tuple[int, ...]]:
        tensors = graph.load(folder / "model.onnx").graph.initializer
        return {tensor.name: tuple(tensor.dims) for tensor in tensors if math.prod(tensor.dims) > 64}

    assert weights(out) == weights(exported(architecture))
    assert (out / "model.onnx").stat().st_size < 1.05 * (exported(architecture) / "model.onnx").stat().st_size


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("technique", [dynamic_int8, static_int8])
def test_its_graph_is_quantized_as_completely_as_any(technique: Any, architecture: str, tmp_path: Path) -> None:
    narrow, _ = made(cls_only, exported(architecture), tmp_path / "narrow")
    # Outliers are not smoothed: the classifier's token of eight sentences does not show which channels have them.
    settings: dict[str, Any] = {"reduce_range": True}  # without VNNI sums of 8-bit weights saturate
    settings |= {"calibration_samples": 8, "smooth": 0} if technique is static_int8 else {}
    out, metrics = made(technique, narrow, tmp_path / "out", **settings)
    _, whole = made(technique, exported(architecture), tmp_path / "whole", **settings)
    assert metrics["int8_weights"] == whole["int8_weights"]
    assert metrics["float_weights"] == whole["float_weights"]
    # The models' logits lie in ±2; a graph that lost its weights is off by about 1.
    assert difference(narrow, out) < 0.35


def test_a_slice_of_the_first_token_is_followed_as_well(tmp_path: Path) -> None:
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    read = next(node for node in model.graph.node if node.op_type == "Gather" and node.output[0] == "select")
    bounds = [onnx.numpy_helper.from_array(np.array([v]), f"bound.{n}") for n, v in enumerate((0, 1, 1))]
    model.graph.initializer.extend(bounds)
    nodes = list(model.graph.node)
    place = nodes.index(read)
    nodes[place : place + 1] = [
        helper.make_node("Slice", [read.input[0], *(b.name for b in bounds)], ["first"]),
        helper.make_node("Squeeze", ["first", "bound.2"], ["select"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    save(folder, model)
    out, metrics = made(cls_only, folder, tmp_path / "out")
    assert metrics["narrowed"] == 6
    assert difference(onnx_folder(), out) < 1e-5


def test_many_layers_are_no_deep_recursion(tmp_path: Path) -> None:
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    nodes = list(model.graph.node)
    place = [i for i, node in enumerate(nodes) if node.op_type == "LayerNormalization"][2] + 1  # behind the first layer
    name = nodes[place - 1].output[0]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), "one.more"))
    chain = [helper.make_node("Mul", [f"{name}.{n}", "one.more"], [f"{name}.{n + 1}"]) for n in range(500)]
    for node in nodes[place:]:
        for index, read in enumerate(node.input):
            node.input[index] = f"{name}.500" if read == name else read
    chain[0].input[0] = name
    nodes[place:place] = chain
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    save(folder, model)
    out, metrics = made(cls_only, folder, tmp_path / "out")
    assert metrics["narrowed"] == 6
    assert difference(onnx_folder(), out) < 1e-5


def test_the_last_token_can_be_the_one_that_is_read(tmp_path: Path) -> None:
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    read = next(node for node in model.graph.node if node.output[0] == "select")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(-1), "last"))
    read.input[1] = "last"
    save(folder, model)
    out, _ = made(cls_only, folder, tmp_path / "out")
    assert difference(folder, out) < 1e-5
    assert difference(onnx_folder(), out) > 1e-3  # it is another token


def test_a_shape_that_is_read_off_a_narrow_value_still_counts_all_tokens(tmp_path: Path) -> None:
    """TorchScript's exporter takes the batch and the tokens for a Reshape from the value that it reshapes."""
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    nodes = list(model.graph.node)
    last = [node for node in nodes if node.op_type == "Reshape"][-1]
    for name, value in (("place.0", [0]), ("place.1", [1]), ("width", [64])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    # [batch, tokens, heads, width of a head] → its own batch and tokens, and the heads side by side.
    made_nodes = [
        helper.make_node("Shape", [last.input[0]], ["whole"]),
        helper.make_node("Gather", ["whole", "place.0"], ["rows"]),
        helper.make_node("Gather", ["whole", "place.1"], ["length"]),
        helper.make_node("Concat", ["rows", "length", "width"], ["target"], axis=0),
    ]
    place = nodes.index(last)
    last.input[1] = "target"
    nodes[place:place] = made_nodes
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    save(folder, model)
    assert difference(onnx_folder(), folder) == 0
    out, metrics = made(cls_only, folder, tmp_path / "out")
    assert metrics["narrowed"] == 6
    assert difference(onnx_folder(), out) < 1e-5


def test_mean_pooling_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    read = next(node for node in model.graph.node if node.output[0] == "select")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "over.tokens"))
    read.op_type, read.input[1] = "ReduceMean", "over.tokens"
    del read.attribute[:]
    read.attribute.append(helper.make_attribute("keepdims", 0))
    save(folder, model)
    with pytest.raises(ModelError, match="reads a single token") as caught:
        made(cls_only, folder, tmp_path / "out")
    assert "mean pooling" in caught.value.message
    assert "take cls_only out" in caught.value.hint


def test_a_second_time_is_refused(tmp_path: Path) -> None:
    out, _ = made(cls_only, exported("bert"), tmp_path / "out")
    with pytest.raises(ModelError, match="for one token already"):
        made(cls_only, out, tmp_path / "again")
    assert cls_only.requires(["finetune", "export", "cls_only"]) == "it stands there already"
    assert cls_only.requires(["finetune", "export"]) is None


def test_it_stands_before_half_precision() -> None:
    assert "put it before fp16" in str(cls_only.requires(["export", "fp16"]))
    assert fp16.requires(["export", "cls_only"]) is None


def test_fixed_shapes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = tiny_onnx_folder(tmp_path)
    model = graph.load(folder / "model.onnx")
    for value in model.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, (2, 7), strict=True):
            dimension.dim_value = size
    save(folder, model)
    with pytest.raises(ModelError, match="3 texts of 7 tokens") as caught:
        made(cls_only, folder, tmp_path / "out")
    assert "must be dynamic" in caught.value.hint


def ran(folder: Path, rows: int, tokens: int) -> list[tuple[str, tuple[int, ...]]]:
    """Operator and output shape of every node, in order of the graph."""
    model = graph.load(folder / "model.onnx")
    assert tokens <= MAX_LENGTH
    nodes = [(node.op_type, node.output[0]) for node in model.graph.node]
    names = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for _, name in nodes if name not in names)
    session = ort.InferenceSession(model.SerializeToString())
    ids = np.full((rows, tokens), 5)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    wanted = [name for _, name in nodes]
    values = session.run(wanted, {item.name: feed[item.name] for item in session.get_inputs()})
    assert json.loads((folder / "interface.json").read_text())["dialect"] == "standard"
    return [(kind, value.shape) for (kind, _), value in zip(nodes, values, strict=True)]
