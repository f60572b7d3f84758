from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests.builders import LABELS, MAX_LENGTH, context, sentences
from tests.optimize.variants import FAMILIES, exported, made, sentence_logits
from toolchain import kinds
from toolchain.core.data import Split
from toolchain.core.errors import ModelError, RecipeError
from toolchain.model import graph
from toolchain.optimize import static_int8

pytest.importorskip("nncf")

from toolchain.optimize import nncf_static
from toolchain.optimize.shared.dev_accuracy import dev_accuracy, dev_batches

KIND = kinds.get("classification")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_product_with_a_weight_becomes_int8_and_shared_weights_stay_shared(family: str, tmp_path: Path) -> None:
    source = exported(family)
    out, metrics = made(nncf_static, source, tmp_path / "out", calibration_samples=16)
    model = graph.load(out / "model.onnx")
    assert graph.dialect(model) == "qdq" == nncf_static.gives(nncf_static.Config(), "standard")
    large = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2 and np.prod(tensor.dims) >= 4096]
    assert large
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}
    assert graph.parameters(model) == pytest.approx(graph.parameters(graph.load(source / "model.onnx")), rel=0.05)
    assert metrics["calibration_samples"] == 16
    # Random weights, and logits of about 1: what one rounding to 8 bits in each product may cost on the texts that
    # calibrated it; other tokens may lie beyond its ranges.
    assert 0 < np.abs(sentence_logits(source) - sentence_logits(out)).max() < 0.15


def test_the_mixed_preset_gives_zero_points(tmp_path: Path) -> None:
    out, _ = made(nncf_static, exported("bert"), tmp_path / "out", preset="mixed", calibration_samples=8)
    config = nncf_static.Config(preset="mixed")
    assert graph.dialect(graph.load(out / "model.onnx")) == "qdq-asymmetric" == nncf_static.gives(config, "standard")


def test_what_is_never_negative_is_signed_too(tmp_path: Path) -> None:
    """DistilBERT has a ReLU before its classifier, and NNCF rounds what comes out of that to unsigned integers."""
    model = graph.load(exported("bert") / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "Tanh":
            node.op_type = "Relu"
    source = tmp_path / "relu"
    source.mkdir()
    for name in ("tokenizer.json", "interface.json"):
        (source / name).write_bytes((exported("bert") / name).read_bytes())
    graph.save(model, source / "model.onnx")
    out, _ = made(nncf_static, source, tmp_path / "out", calibration_samples=8)
    assert graph.dialect(graph.load(out / "model.onnx")) == "qdq"


def test_unsigned_integers_become_signed_ones_of_the_same_range() -> None:
    make, values = onnx.helper.make_node, np.linspace(0, 2.55, 300, dtype=np.float32)
    nodes = [make("QuantizeLinear", ["x", "s", "z"], ["q"]), make("DequantizeLinear", ["q", "s", "z"], ["y"])]
    constants = [numpy_helper.from_array(np.float32(0.01), "s"), numpy_helper.from_array(np.uint8(0), "z")]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [300]) for name in ("x", "y")]
    imports = [onnx.helper.make_opsetid("", 20)]
    body = onnx.helper.make_graph(nodes, "pair", ends[:1], ends[1:], constants)
    model = onnx.helper.make_model(body, opset_imports=imports, ir_version=10)
    assert graph.dialect(model) == "qdq-asymmetric"
    nncf_static._sign(model)
    assert graph.dialect(model) == "qdq"
    assert sorted(tensor.name for tensor in model.graph.initializer) == ["s.signed", "z.signed"]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, {"x": values})[0] - values).max() <= 0.01 * 255 / 127 / 2 + 1e-6


def test_nothing_is_printed_and_logging_stays_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NNCF_CI", raising=False)
    disabled, level = logging.root.manager.disable, logging.root.level
    made(nncf_static, exported("bert"), tmp_path / "out", calibration_samples=8)
    assert capfd.readouterr().out == ""
    assert (logging.root.manager.disable, logging.root.level) == (disabled, level)
    assert "NNCF_CI" not in os.environ


def test_accuracy_control_takes_quantizers_back_until_dev_accuracy_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exported("bert")
    plain, _ = made(nncf_static, source, tmp_path / "plain", calibration_samples=8)
    labels = model_labels(source)
    # Labels are the float graph's own, so that any flip is a loss; one 8-bit product is spoiled to make some.
    settings: dict[str, Any] = {"accuracy_control": True, "max_drop": 0, "calibration_samples": 8}
    data = context(tmp_path).dataset()
    split = type(data.dev)(data.dev.texts, labels)
    kept = type(data)(data.train, split, data.test, data.labels)
    out = tmp_path / "out"
    out.mkdir()
    metrics = nncf_static.apply(source, out, nncf_static.Config(**settings), context(tmp_path, kept))
    assert metrics["float_dev_accuracy"] == 100
    assert metrics["dev_accuracy"] == 100
    assert metrics["target_reached"] is (graph.dialect(graph.load(out / "model.onnx")) == "qdq")
    assert graph.dialect(graph.load(out / "model.onnx")) in ("qdq", "standard")
    assert graph.dialect(graph.load(plain / "model.onnx")) == "qdq"


def test_dev_accuracy_is_counted_in_the_order_of_the_models_own_labels(tmp_path: Path) -> None:
    source, data = exported("bert"), sentences()
    dev = Split(data.dev.texts, [1 - label for label in model_labels(source)])
    turned = replace(data, dev=dev, labels=tuple(reversed(LABELS)))
    items = dev_batches(source, context(tmp_path, turned))
    assert dev_accuracy(KIND, graph.load(source / "model.onnx"), items, 1)[0] == 1


def test_a_model_of_other_labels_is_refused_with_accuracy_control(tmp_path: Path) -> None:
    data = context(tmp_path, replace(sentences(), labels=("bad", "good")))
    config = nncf_static.Config(accuracy_control=True, calibration_samples=8)
    with pytest.raises(ModelError, match="negative, positive; the task has bad, good") as caught:
        nncf_static.apply(exported("bert"), tmp_path, config, data)
    assert "NNCF" not in caught.value.message


@pytest.mark.parametrize(("tried", "said"), [(True, "the best graph that it tried is taken"), (False, "left in float")])
def test_a_search_that_ends_below_its_goal_says_so_and_whether_a_quantized_graph_was_left(
    tried: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import nncf

    source, data = exported("bert"), sentences()
    right = replace(data, dev=Split(data.dev.texts, model_labels(source)))

    def ends_below(model: Any, calibration: Any, validation: Any, validate: Any, **_: Any) -> Any:
        if tried:
            good = onnx.ModelProto.FromString(model.SerializeToString())
            # One scalar through Q/DQ that nothing reads: quantized, and as accurate as the float graph.
            good.graph.initializer.extend(
                onnx.numpy_helper.from_array(np.array(value, kind), f"unread.{name}")
                for name, value, kind in (("x", 1, np.float32), ("scale", 1, np.float32), ("zero", 0, np.int8))
            )
            ends = ["unread.scale", "unread.zero"]
            good.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["unread.x", *ends], ["unread.q"]))
            good.graph.node.append(onnx.helper.make_node("DequantizeLinear", ["unread.q", *ends], ["unread.dq"]))
            validate(good, validation.get_data())
        bad = onnx.ModelProto.FromString(model.SerializeToString())
        bad.graph.output[0].name, before = "turned", bad.graph.output[0].name
        bad.graph.node.append(onnx.helper.make_node("Neg", [before], ["turned"]))
        return bad

    monkeypatch.setattr(nncf, "quantize_with_accuracy_control", ends_below)
    monkeypatch.setattr(logging.getLogger("toolchain"), "propagate", True)
    out = tmp_path / "out"
    out.mkdir()
    config = nncf_static.Config(accuracy_control=True, max_drop=1, calibration_samples=8)
    metrics = nncf_static.apply(source, out, config, context(tmp_path, right))
    assert metrics["target_reached"] is tried
    assert metrics["dev_accuracy"] == metrics["float_dev_accuracy"] == 100
    assert graph.dialect(graph.load(out / "model.onnx")) == ("qdq" if tried else "standard")
    assert f"more than 1 points below the float graph's dev accuracy of 100.00 %: {said}" in caplog.text


def model_labels(source: Path) -> list[int]:
    items = dev_batches(source, context(source))
    import onnxruntime as ort

    session = ort.InferenceSession(str(source / "model.onnx"))
    return [int(session.run(None, inputs)[0][0].argmax()) for inputs, *_ in items]


def test_dev_accuracy_counts_right_labels(tmp_path: Path) -> None:
    source = exported("bert")
    labels = model_labels(source)
    encoded = dev_batches(source, context(tmp_path))
    items = [(inputs, label, rows) for (inputs, _, rows), label in zip(encoded, labels, strict=True)]
    assert all(1 <= inputs["input_ids"].shape[1] <= MAX_LENGTH for inputs, *_ in items)
    wrong = [(inputs, label if index % 4 else 1 - label, rows) for index, (inputs, label, rows) in enumerate(items)]
    model = graph.load(source / "model.onnx")
    assert dev_accuracy(KIND, model, items, 1) == (1.0, [1.0] * 32)
    assert dev_accuracy(KIND, model, wrong, 1)[0] == 0.75


def test_what_is_excluded_stays_in_float(tmp_path: Path) -> None:
    out, metrics = made(
        nncf_static, exported("bert"), tmp_path / "out", calibration_samples=8, embeddings=False, exclude=("*Gemm*",)
    )
    weights = graph.load(out / "model.onnx").graph.initializer
    tables = [t for t in weights if "embeddings" in t.name and len(t.dims) == 2 and t.data_type != 7]
    assert len(tables) == 3  # of words, positions and segments
    assert {tensor.data_type for tensor in tables} == {onnx.TensorProto.FLOAT}
    assert metrics["float_weights"] >= 4
    with pytest.raises(RecipeError, match="nothing in the graph matches no_such_node"):
        made(nncf_static, exported("bert"), tmp_path / "other", exclude=("no_such_node",))


def test_a_quantized_graph_is_refused(tmp_path: Path) -> None:
    source, _ = made(static_int8, exported("bert"), tmp_path / "int8", calibration_samples=8)
    with pytest.raises(ModelError, match="quantized or fused already"):
        made(nncf_static, source, tmp_path / "out")


def test_an_error_of_nncf_is_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nncf

    def fails(*_: Any, **__: Any) -> Any:
        raise nncf.UnsupportedModelError("no such layer")

    monkeypatch.setattr(nncf, "quantize", fails)
    with pytest.raises(ModelError, match="NNCF failed: no such layer") as caught:
        made(nncf_static, exported("bert"), tmp_path / "out", calibration_samples=8)
    assert "static_int8" in caught.value.hint
    assert isinstance(caught.value.__cause__, nncf.UnsupportedModelError)
