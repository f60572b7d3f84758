from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import context, onnx_folder, sentences
from tests.engines.broken import unknown_input, unknown_operator
from tests.optimize.variants import FAMILIES, exported, made
from toolchain.core.errors import EngineError
from toolchain.measure import gates
from toolchain.model import graph
from toolchain.optimize import static_int8
from toolchain.runtime.predictor import Predictor

pytest.importorskip("openvino")

from toolchain.engines import openvino as engine
from toolchain.engines.openvino import session as sessions
from toolchain.engines.openvino import shapes as engine_shapes

TEXTS = [" ".join(given) for given in sentences(copies=1).train.texts]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives engines of the small models, each built once: ``folders(family, kind, **settings)``."""
    root = tmp_path_factory.mktemp("openvino")

    @functools.cache
    def graph_of(family: str, kind: str) -> Path:
        if kind == "float":
            return exported(family)
        # Without VNNI sums of 8-bit weights saturate.
        settings = {"symmetric": kind == "qdq", "reduce_range": True}
        return made(static_int8, exported(family), root / f"{family}-{kind}", **settings)[0]

    @functools.cache
    def engine_of(family: str, kind: str, **settings: Any) -> tuple[Path, dict[str, Any]]:
        source = graph_of(family, kind)
        out = root / "-".join(["engine", family, kind, *map(str, settings.values())])
        out.mkdir()
        metrics = engine.build(source, out, engine.Config(**{"tune": False, **settings}), context(out))
        for name in ("interface.json", "tokenizer.json"):
            shutil.copyfile(source / name, out / name)
        return out, {**metrics, "source": source}

    return engine_of


def test_ctrl_c_is_answered_after_sessions_have_come_and_gone(folders: Any) -> None:
    """In a process of its own: what is freed too early ends it with a segmentation fault."""
    script = """
import signal, sys
from pathlib import Path
from toolchain.engines import openvino
signal.signal(signal.SIGINT, signal.default_int_handler)
first = openvino.open_session(Path(sys.argv[1]), 1)
second = openvino.open_session(Path(sys.argv[1]), 1)
del first
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("answered")
"""
    found = subprocess.run([sys.executable, "-c", script, folders("bert", "float")[0]], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "answered\n"), found.stderr


def logits(folder: Path, threads: int = 1, batch_size: int = 32) -> Any:
    return Predictor(folder, threads).logits(TEXTS, batch_size)


def reference(source: Path) -> Any:
    """The graph as ONNX Runtime computes it, unfused."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(source / "model.onnx"), options)
    bare = Predictor(source, session=engine_session(session))
    return bare.logits(TEXTS)


def engine_session(session: Any) -> Any:
    class Bare:
        inputs = tuple(item.name for item in session.get_inputs())

        def run(self, batch: Any) -> Any:
            return {"logits": session.run(None, {name: batch[name] for name in self.inputs})[0]}

    return Bare()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_float_engine_gives_the_logits_of_its_graph(folders: Any, family: str) -> None:
    out, metrics = folders(family, "float")
    assert np.abs(logits(out) - reference(metrics["source"])).max() < 1e-4
    assert metrics["precision"]["hint"] == "f32"
    assert {"bf16", "f16"}.isdisjoint(metrics["precision"]["nodes"])
    assert metrics["fusion"]["layer_norm"] == [5, 5]
    # ALBERT's GELU is the tanh one, which the exporter spells out and nothing counts.
    assert metrics["fusion"].get("gelu") == (None if family == "albert" else [2, 2])
    assert gates.fusion(metrics["fusion"]).passed


@pytest.mark.parametrize("kind", ["qdq", "qdq-asymmetric"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_int8_product_runs_in_int8_and_stays_near_its_graph(folders: Any, family: str, kind: str) -> None:
    out, metrics = folders(family, kind)
    interface = json.loads((out / "interface.json").read_text())
    found, expected = metrics["precision"]["int8_products"]
    assert interface["dialect"] == kind
    # Six products in each of 2 layers, the classifier's one, and ALBERT's projection or the others' pooler or dense.
    assert found == expected >= 13
    assert gates.placement(metrics["placement"], engine.DEVICE).passed
    agreement = (logits(out).argmax(1) == reference(metrics["source"]).argmax(1)).mean()
    assert agreement >= 7 / 8


def test_an_int8_product_that_falls_back_to_float_fails_the_placement_gate(folders: Any, tmp_path: Path) -> None:
    out, metrics = folders("bert", "qdq")
    source = Path(shutil.copytree(metrics["source"], tmp_path / "broken"))
    model = graph.load(source / "model.onnx")
    # Fault: one activation passes through a Sin after it was quantized, so that its product reads floats again.
    product = next(node for node in model.graph.node if node.op_type == "MatMul" and "Dequant" in node.input[1])
    fault = onnx.helper.make_node("Sin", [product.input[0]], ["fault"], name="fault")
    index = list(model.graph.node).index(product)
    product.input[0] = "fault"
    model.graph.node.insert(index, fault)
    onnx.save(model, source / "model.onnx")
    broken = tmp_path / "engine"
    broken.mkdir()
    engine.build(source, broken, engine.Config(tune=False), context(tmp_path))
    # Its own build expects one product less; that the shipped plan expects all of them is what the gate judges by.
    plan = json.loads((broken / "engine.json").read_text())
    assert plan["options"]["int8_products"] == metrics["precision"]["int8_products"][1] - 1
    plan["options"]["int8_products"] += 1
    (broken / "engine.json").write_text(json.dumps(plan))
    placed = engine.open_session(broken, 1).placement()
    verdict = gates.placement(placed, engine.DEVICE)
    assert placed["CPU, float for int8"] == 1
    assert verdict.failed
    assert "1 on CPU, float for int8" in verdict.evidence
    assert list(engine.open_session(out, 1).placement()) == ["CPU"]


def test_albert_keeps_one_copy_of_its_shared_weights(folders: Any) -> None:
    for kind, bytes_each in (("float", 4), ("qdq", 1)):
        out, metrics = folders("albert", kind)
        model = graph.load(metrics["source"] / "model.onnx")
        parameters = graph.parameters(model)
        assert (out / "model.bin").stat().st_size < 1.15 * parameters * bytes_each + 16_384
        assert metrics["bytes"] == sum((out / name).stat().st_size for name in ("model.xml", "model.bin"))


def test_the_precision_is_never_left_to_openvino(folders: Any) -> None:
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EngineError, match="precision bf16 was asked for"):
            folders("bert", "float", precision="bf16")
        return
    out, metrics = folders("bert", "float", precision="bf16")
    assert metrics["precision"]["hint"] == "bf16"
    assert metrics["precision"]["nodes"]["bf16"] > 10
    gap = np.abs(logits(out) - reference(metrics["source"])).max()
    assert 1e-5 < gap < 0.5
    assert json.loads((out / "engine.json").read_text())["options"]["precision"] == "bf16"


def test_int8_products_beside_f16_are_refused(folders: Any, tmp_path: Path) -> None:
    _, metrics = folders("bert", "qdq")
    with pytest.raises(EngineError, match="int8 products, and precision f16 was asked for") as caught:
        engine.build(metrics["source"], tmp_path, engine.Config(precision="f16", tune=False), context(tmp_path))
    assert "bf16" in caught.value.hint


def test_a_build_gives_the_same_bytes_twice(folders: Any, tmp_path: Path) -> None:
    out, metrics = folders("bert", "qdq")
    engine.build(metrics["source"], tmp_path, engine.Config(tune=False), context(tmp_path))
    for name in ("model.xml", "model.bin", "engine.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_logits_do_not_hang_on_streams_splits_or_fixed_lengths(folders: Any) -> None:
    out, _ = folders("bert", "float")
    plan = json.loads((out / "engine.json").read_text())["options"]
    expected = logits(out)
    never = {"call_tokens": 1_000_000}
    for change in (
        {"streams": 2, "call_tokens": 1}, {"streams": 1, **never}, {"streams": 2, **never}, {"split": False},
        {"lengths": [8, 32]}, {"performance": "throughput"},
    ):  # fmt: skip
        session = sessions.open_plan(out, sessions.Plan(**{**plan, "lengths": (), **change}), 2)
        for batch_size in (1, 3, 8):
            found = Predictor(out, session=session).logits(TEXTS, batch_size, sort=False)
            assert np.abs(found - expected).max() < 1e-4


def test_a_text_that_is_too_long_says_where_the_limit_stands(folders: Any) -> None:
    session = engine.open_session(folders("bert", "float")[0], 1)
    with pytest.raises(EngineError, match=r"\(2, 500\)") as caught:
        session.run({name: np.ones((2, 500), dtype=np.int64) for name in session.inputs})
    assert "max_length" in caught.value.hint


def test_batches_that_are_padded_to_a_known_shape_answer_alike(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = folders("bert", "float")
    ids = np.random.default_rng(0).integers(4, 40, (7, 21))
    whole = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    cuts = [(7, 21), (6, 21), (5, 21), (7, 9), (7, 21)]
    batches = [{name: values[:rows, :tokens] for name, values in whole.items()} for rows, tokens in cuts]
    expected = [engine.open_session(out, 1).run(batch)["logits"] for batch in batches]
    monkeypatch.setattr(engine_shapes, "EXACT_SHAPES", 2)
    session: Any = engine.open_session(out, 1)
    target, shapes = session._shapes.target, []

    def recorded(*shape: int) -> Any:
        shapes.append(target(*shape))
        return shapes[-1]

    monkeypatch.setattr(session._shapes, "target", recorded)
    for batch, logits in zip(batches, expected, strict=True):
        answer = session.run(batch)["logits"]
        assert answer.shape == logits.shape
        assert np.abs(answer - logits).max() < 1e-5
    assert shapes == [(7, 21), (6, 21), (6, 21), (8, 16), (7, 21)]


def test_the_number_of_shapes_is_bounded() -> None:
    shapes = engine_shapes.Shapes(masked=True)
    drawn = {shapes.target(rows, tokens) for rows in range(1, 33) for tokens in range(1, 129)}
    most = engine_shapes.EXACT_SHAPES + len(engine_shapes.ROWS) * (len(engine_shapes.TOKENS) + 1)
    assert len(drawn) <= most
    assert shapes.target(33, 9) == (64, 16)
    assert shapes.target(32, 127) == (32, 128)
    short = engine_shapes.Shapes(masked=True)
    assert {short.target(rows, 50) for rows in range(1, 2000)} >= {(1, 50), (2016, 50)}  # no text is longer than 50


def test_inner_padding_counts_and_trailing_padding_does_not() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    assert sessions.row_lengths({"input_ids": mask, "attention_mask": mask}).tolist() == [2, 3, 1]


@pytest.mark.parametrize("change", [{"abacus": 1}, {"lengths": None}])
def test_a_changed_engine_file_is_refused(change: dict[str, Any], folders: Any, tmp_path: Path) -> None:
    out, _ = folders("bert", "float")
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    record = json.loads((copy / "engine.json").read_text())
    record["options"].update(change)
    (copy / "engine.json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match="options that this version does not know"):
        engine.open_session(copy, 1)


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_a_damaged_ir_is_an_engine_error(name: str, folders: Any, tmp_path: Path) -> None:
    out, _ = folders("bert", "float")
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / name).write_bytes(b"")
    with pytest.raises(EngineError, match="cannot load") as caught:
        engine.open_session(copy, 1)
    assert "build the engine again" in caught.value.hint


def test_an_operator_that_openvino_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="NoSuchOperator") as caught:
        engine.build(unknown_operator(tmp_path), tmp_path, engine.Config(tune=False), context(tmp_path))
    assert caught.value.__cause__ is not None


def test_an_unknown_input_name_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="words: i64"):
        engine.build(unknown_input(tmp_path), tmp_path, engine.Config(tune=False), context(tmp_path))


def test_pairs_of_texts_are_computed_with_their_segments(tmp_path: Path) -> None:
    source = onnx_folder(pair=True)
    engine.build(source, tmp_path, engine.Config(tune=False), context(tmp_path, sentences(pair=True)))
    for name in ("interface.json", "tokenizer.json"):
        shutil.copyfile(source / name, tmp_path / name)
    pairs = sentences(pair=True, copies=1).dev.texts
    predictor = Predictor(tmp_path, 1)
    swapped = [(second, first) for first, second in pairs]
    assert np.abs(predictor.logits(pairs) - predictor.logits(swapped)).max() > 1e-4


def test_half_stored_weights_take_half_the_bytes(folders: Any, tmp_path: Path) -> None:
    out, metrics = folders("bert", "float")
    engine.build(metrics["source"], tmp_path, engine.Config(tune=False, compress_to_fp16=True), context(tmp_path))
    ratio = (tmp_path / "model.bin").stat().st_size / (out / "model.bin").stat().st_size
    assert 0.45 < ratio < 0.6
