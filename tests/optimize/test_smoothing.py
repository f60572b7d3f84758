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
from toolchain.optimize import _int8, _observed, static_int8
from toolchain.optimize._smoothing import smooth

DATA = sentences()


def smoothed(family: str, folder: Path, alpha: float, exclude: tuple[str, ...] = ()) -> tuple[Any, int]:
    """The small model in float with its products' inputs smoothed, and how many there are."""
    path = exported(family) / "model.onnx"
    model = _int8.replace_gemm(_int8.load_float(path))
    excluded = _int8.excluded_nodes(model, exclude, embeddings=True)
    samples = static_int8.calibration_batches(exported(family), 16, context(folder, DATA))
    return model, smooth(model, path, samples, alpha, excluded, context(folder, DATA))


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
        with _observed.every_value(model, tmp_path, context(tmp_path, DATA)) as values:
            samples = static_int8.calibration_batches(exported("bert"), 16, context(tmp_path, DATA))
            seen = [np.abs(values.run(batch, [name])[name]).reshape(-1, 64).max(axis=0) for batch in samples]
        channels = np.max(seen, axis=0)
        return float(channels.max() / np.median(channels))

    plain = _int8.replace_gemm(_int8.load_float(exported("bert") / "model.onnx"))
    model, _ = smoothed("bert", tmp_path, 1.0)
    assert spread(model) == pytest.approx(1, abs=1e-3)
    assert spread(plain) > 1.3


def test_a_weight_that_something_else_reads_stays_as_it_is(tmp_path: Path) -> None:
    model = _int8.replace_gemm(_int8.load_float(exported("bert") / "model.onnx"))
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


def test_an_outlier_channel_costs_less_when_it_is_smoothed(tmp_path: Path) -> None:
    def grow(model: Any, tensors: dict[str, Any]) -> None:
        scale = tensors["model.bert.embeddings.LayerNorm.weight"]
        values = np.array(onnx.numpy_helper.to_array(scale))
        values[0] *= 60
        fill(scale, values)

    source = planted(tmp_path / "source", grow)
    plain = error(source, tmp_path / "plain", smooth=0.0)
    assert error(source, tmp_path / "smooth", smooth=0.8) < 0.5 * plain


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
    settings = {"smooth": 0.0, "embeddings": False, "percentile": 100.0}
    plain = error(source, tmp_path / "plain", correct_biases=False, **settings)
    assert error(source, tmp_path / "corrected", **settings) < 0.7 * plain
