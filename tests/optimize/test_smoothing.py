from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import context, sentences
from tests.optimize.variants import FAMILIES, difference, exported, made, save, sentence_logits
from toolchain.model import graph
from toolchain.optimize import static_int8
from toolchain.optimize.shared import int8, observation
from toolchain.optimize.shared.calibration import calibration_batches
from toolchain.optimize.static_int8.smoothing import channel_maxima, smooth

DATA = sentences()


def smoothed(family: str, folder: Path, alpha: float, exclude: tuple[str, ...] = ()) -> tuple[Any, int]:
    """The small model in float with its products' inputs smoothed, and how many there are."""
    path = exported(family) / "model.onnx"
    model = int8.replace_gemm(int8.load_float(path))
    excluded = int8.excluded_nodes(model, exclude, embeddings=True)
    samples = calibration_batches(exported(family), 16, context(folder, DATA))
    maxima = channel_maxima(model, path, samples, excluded, context(folder, DATA))
    return model, smooth(model, maxima, alpha, excluded)


@pytest.mark.parametrize("family", FAMILIES)
def test_smoothing_changes_no_logit_and_keeps_shared_weights_one(family: str, tmp_path: Path) -> None:
    model, count = smoothed(family, tmp_path, 0.8)
    assert difference(exported(family), save(tmp_path, model)) < 1e-4
    onnx.checker.check_model(model, full_check=True)
    matrices = [t for t in model.graph.initializer if len(t.dims) == 2]
    assert len(matrices) == sum(len(t.dims) == 2 for t in graph.load(exported(family) / "model.onnx").graph.initializer)
    # In each of two layers one for query, key and value, one for the output, two of the FFN; pooler and classifier;
    # ALBERT's projection of the embeddings.
    assert count == 10 + (family == "albert")
    assert sum(node.name.endswith(".smoothing") for node in model.graph.node) == count


def test_channels_of_unlike_size_become_alike(tmp_path: Path) -> None:
    def spread(model: Any) -> float:
        """Of the channels that the first product reads on the calibration sentences: the largest by the median."""
        name = next(n.input[0] for n in model.graph.node if n.op_type == "MatMul")
        with observation.every_value(model, tmp_path, context(tmp_path, DATA)) as values:
            samples = calibration_batches(exported("bert"), 16, context(tmp_path, DATA))
            seen = [np.abs(values.run(batch, [name])[name]).reshape(-1, 64).max(axis=0) for batch in samples]
        channels = np.max(seen, axis=0)
        return float(channels.max() / np.median(channels))

    plain = int8.replace_gemm(int8.load_float(exported("bert") / "model.onnx"))
    model, _ = smoothed("bert", tmp_path, 1.0)
    assert spread(model) == pytest.approx(1, abs=1e-3)
    assert spread(plain) > 1.3


def product(rows: list[float]) -> Any:
    """A graph of one product, whose weight has these values in its rows."""
    weight = np.repeat(np.array(rows, np.float32)[:, None], 3, axis=1)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        for name, size in (("x", len(rows)), ("y", 3))
    ]
    body = onnx.helper.make_graph([node], "g", tensors[:1], tensors[1:], [onnx.numpy_helper.from_array(weight, "w")])
    return onnx.helper.make_model(body)


def divided(maxima: list[float], rows: list[float], alpha: float) -> Any:
    """The maxima of channels behind the Mul that smoothing puts before the product."""
    model, values = product(rows), np.array(maxima, np.float32)
    assert smooth(model, {"x": values}, alpha, ()) == 1
    mul = next(node for node in model.graph.node if node.op_type == "Mul")
    return values * onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == mul.input[1]))


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8, 1.0])
def test_activations_become_alike_although_their_weights_are_large_where_they_are(alpha: float) -> None:
    channels = divided([1, 1, 20], [0.1, 0.1, 10], alpha)
    assert channels.max() / channels.min() == pytest.approx(20 ** (1 - alpha), rel=1e-5)


def test_a_channel_that_calibration_hardly_saw_is_not_scaled_up_by_its_own_maximum() -> None:
    channels = divided([1e-6, *[1.0] * 20], [1.0] * 21, 1.0)
    assert channels[0] == pytest.approx(1e-6)  # the quantile is 1
    assert channels[1:] == pytest.approx(1)


def test_channels_that_are_always_zero_are_left_alone() -> None:
    assert divided([0, 0], [1.0, 1.0], 0.8) == pytest.approx(0)


def test_a_weight_that_something_else_reads_stays_as_it_is(tmp_path: Path) -> None:
    model = int8.replace_gemm(int8.load_float(exported("bert") / "model.onnx"))
    names = {t.name for t in model.graph.initializer}
    first = next(n.input[1] for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in names)
    changed, count = smoothed("bert", tmp_path, 0.8, exclude=(first,))
    assert difference(exported("bert"), save(tmp_path, changed)) < 1e-4
    weights = [next(t for t in one.graph.initializer if t.name == first) for one in (model, changed)]
    assert weights[0] == weights[1]
    assert count == 10  # key and value of that layer are smoothed still


def error(source: Path, folder: Path, **settings: Any) -> float:
    """Root mean square of what static_int8 changes in the sentences' logits."""
    out, _ = made(static_int8, source, folder, calibration_samples=16, **settings)
    return float(np.sqrt(np.square(sentence_logits(out) - sentence_logits(source)).mean()))


def planted(folder: Path, change: Callable[[Any, dict[str, Any]], None]) -> Path:
    """The small BERT, changed; ``change`` is given the graph and its tensors by name."""
    folder.mkdir()
    for file in ("tokenizer.json", "interface.json"):
        (folder / file).write_bytes((exported("bert") / file).read_bytes())
    model = graph.load(exported("bert") / "model.onnx")
    change(model, {tensor.name: tensor for tensor in model.graph.initializer})
    return save(folder, model)


def fill(tensor: Any, values: Any) -> None:
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_an_outlier_channel_costs_less_when_it_is_smoothed(alpha: float, tmp_path: Path) -> None:
    def grow(model: Any, tensors: dict[str, Any]) -> None:
        scale = tensors["model.bert.embeddings.LayerNorm.weight"]
        values = np.array(onnx.numpy_helper.to_array(scale))
        values[0] *= 60
        fill(scale, values)

    source = planted(tmp_path / "source", grow)
    plain = error(source, tmp_path / "plain", smooth=0.0)
    assert error(source, tmp_path / "smooth", smooth=alpha) < 0.75 * plain


def test_weights_that_all_round_the_same_way_cost_less_when_biases_are_corrected(tmp_path: Path) -> None:
    def fractions(model: Any, tensors: dict[str, Any]) -> None:
        """Of each column of an FFN one weight is 127 steps, and all others are 0.45 of one, which rounds to 0."""
        down = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in tensors]
        product = [n for n in down if list(tensors[n.input[1]].dims) == [128, 64]][-1]
        values = np.array(onnx.numpy_helper.to_array(tensors[product.input[1]]))
        values[:] = 0.45 * np.abs(values).max() / 127
        values[0] = np.abs(values).max() * 127 / 0.45
        fill(tensors[product.input[1]], values * np.linspace(-1, 1, 64, dtype=np.float32))
        # The small model's biases are zeros, which are not exported.
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(64, np.float32), "planted"))
        place, output = list(model.graph.node).index(product) + 1, product.output[0]
        product.output[0] = "product"
        model.graph.node.insert(place, onnx.helper.make_node("Add", ["product", "planted"], [output], name="bias"))

    source = planted(tmp_path / "source", fractions)
    settings = {"smooth": 0.0, "embeddings": False}
    plain = error(source, tmp_path / "plain", correct_biases=False, **settings)
    assert error(source, tmp_path / "corrected", **settings) < 0.5 * plain


def test_the_default_range_keeps_every_value_of_the_calibration_texts(tmp_path: Path) -> None:
    out, _ = made(static_int8, exported("bert"), tmp_path / "out", calibration_samples=16, embeddings=False, smooth=0.0)
    model = graph.load(out / "model.onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    ends = {n.input[0]: 127 * constants[n.input[1]] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert len(ends) == 10
    floats = graph.load(exported("bert") / "model.onnx")
    samples = calibration_batches(exported("bert"), 16, context(tmp_path, DATA))
    with observation.every_value(floats, tmp_path, context(tmp_path, DATA)) as values:
        seen = [values.run(batch) for batch in samples]
    for name, end in ends.items():
        assert end == pytest.approx(max(np.abs(batch[name]).max() for batch in seen), rel=1e-4)


def test_corrected_biases_give_the_products_their_means_back(tmp_path: Path) -> None:
    def means(folder: Path) -> Any:
        """Of what the first quantized product with a bias gives, on the calibration texts."""
        model = graph.load(folder / "model.onnx")
        with observation.every_value(model, tmp_path, context(tmp_path, DATA), [name]) as values:
            seen = [values.run(batch, [name])[name] for batch in samples]
        return np.concatenate([value.reshape(-1, value.shape[-1]) for value in seen]).mean(axis=0)

    def coarse(model: Any, tensors: dict[str, Any]) -> None:
        """Biases, and an activation with an outlier, so that most of its values are rounded to few steps."""
        scale = tensors["model.bert.embeddings.LayerNorm.weight"]
        values = np.array(onnx.numpy_helper.to_array(scale))
        values[0] *= 60
        fill(scale, values)
        query = next(n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in tensors)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(64, np.float32), "planted"))
        place, output = list(model.graph.node).index(query) + 1, query.output[0]
        query.output[0] = "product"
        model.graph.node.insert(place, onnx.helper.make_node("Add", ["product", "planted"], [output], name="bias"))

    source = planted(tmp_path / "source", coarse)
    name = next(n.output[0] for n in graph.load(source / "model.onnx").graph.node if n.name == "bias")
    samples = calibration_batches(source, 16, context(tmp_path, DATA))
    settings = {"calibration_samples": 16, "embeddings": False, "smooth": 0.0}
    plain, _ = made(static_int8, source, tmp_path / "plain", correct_biases=False, **settings)
    corrected, metrics = made(static_int8, source, tmp_path / "corrected", **settings)
    assert metrics["corrected_biases"] >= 1
    exact = means(source)
    assert np.abs(means(corrected) - exact).max() < 0.02 * np.abs(means(plain) - exact).max()
