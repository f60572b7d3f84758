"""Gate 1 on graphs and engines with one thing wrong in each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import SENTENCES, context, engine_folder, onnx_folder
from tests.measure.faults import copied, edited, scale_weight, weights_of
from toolchain import kinds
from toolchain.core.errors import EngineError
from toolchain.engines.shared.artifact import read_engine
from toolchain.measure import divergence, engine_parity, gates, parity
from toolchain.measure.process import WorkerProcess

KIND = kinds.get("classification")

TEXTS = [(text,) for text in SENTENCES] * 4


def test_the_same_graph_agrees_at_every_shape_of_batch() -> None:
    found = parity.compare(onnx_folder(), onnx_folder(), 1.0, TEXTS, 1)
    assert found["passed"]
    assert (found["flips"], found["max_difference"], found["non_finite"]) == (0, 0, 0)
    # 1 + 3 + 8 + 20 of the 32 sentences, and the first four once more, padded to what the model takes at most.
    assert found["examples"] == 36
    assert found["shapes"] >= 4
    assert found["largest"] == "4x32" or math.prod(map(int, found["largest"].split("x"))) > 128


def test_a_broken_layer_fails_and_its_node_is_named(tmp_path: Path) -> None:
    # Of 2 layers with 6 matrices each: the output projection of the second layer's attention.
    weight, node = weights_of(onnx_folder())[9]
    broken = edited(onnx_folder(), tmp_path / "broken", scale_weight(weight, -4))
    found = parity.compare(onnx_folder(), broken, 0.98, TEXTS, 1)
    assert found["passed"] is False
    assert found["flips"] - found["ties"] > math.ceil(0.02 * 36)
    first = divergence.first_diverging(onnx_folder(), broken, TEXTS[:8], 0.98, 1, tmp_path)
    assert first is not None
    assert f" {node} " in f" {first} "
    # The result is −4 times what it was: off by 5 times itself.
    assert "relative error 5" in first
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_pass_that_claims_to_change_nothing_may_not_move_a_logit(tmp_path: Path) -> None:
    weight, node = weights_of(onnx_folder())[-1]
    moved = edited(onnx_folder(), tmp_path / "moved", scale_weight(weight, 1.01))
    exact = parity.compare(onnx_folder(), moved, 1.0, TEXTS, 1)
    assert exact["max_difference"] > parity.EXACT_TOLERANCE
    assert (exact["passed"], exact["flips"]) == (False, 0)
    assert parity.compare(onnx_folder(), moved, 0.98, TEXTS, 1)["passed"]
    first = divergence.first_diverging(onnx_folder(), moved, TEXTS[:8], 1.0, 1, tmp_path)
    assert first is not None
    assert node in first


def test_what_gives_no_numbers_fails_at_any_floor(tmp_path: Path) -> None:
    broken = edited(onnx_folder(), tmp_path / "nan", scale_weight(weights_of(onnx_folder())[-1][0], math.nan))
    found = parity.compare(onnx_folder(), broken, 0.5, TEXTS, 1)
    assert (found["passed"], found["non_finite"], found["examples"]) == (False, 36, 36)
    assert gates.compared(found).endswith("36 without numbers")


def test_a_graph_that_cannot_be_loaded_is_an_error_that_names_it(tmp_path: Path) -> None:
    broken = copied(onnx_folder(), tmp_path / "cut")
    (broken / "model.onnx").write_bytes((broken / "model.onnx").read_bytes()[:1000])
    with pytest.raises(EngineError, match=r"cannot load .*cut"):
        parity.compare(onnx_folder(), broken, 0.98, TEXTS, 1)


@pytest.mark.parametrize(
    ("expected", "found", "ties"),
    [
        ([0.0, 0.009], [0.009, 0.0], 1),
        ([0.0, 0.02], [0.009, 0.0], 0),  # it was decided
        ([0.0, 0.009], [0.02, 0.0], 0),  # it is decided now, the other way
    ],
)
def test_a_flip_is_a_toss_up_where_neither_decides(expected: list[float], found: list[float], ties: int) -> None:
    others = [[0.0, 1.0], [1.0, 0.0]]
    judged = parity.judge(KIND, np.array([expected, *others], np.float32), np.array([found, *others], np.float32), 1.0)
    assert (judged["flips"], judged["ties"], judged["passed"]) == (1, ties, bool(ties))


@pytest.mark.parametrize(("flips", "passed"), [(2, True), (3, False)])
def test_a_floor_lets_its_share_of_labels_differ(flips: int, passed: bool) -> None:
    expected = np.tile(np.array([[0.0, 1.0]], np.float32), (100, 1))
    found = expected.copy()
    found[:flips] = found[:flips, ::-1]
    assert parity.judge(KIND, expected, found, 0.98)["passed"] is passed


def test_logits_of_another_shape_fail() -> None:
    judged = parity.judge(KIND, np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float32), 0.5)
    assert (judged["passed"], judged["flips"], judged["max_difference"]) == (False, 4, None)


def test_a_doubtful_case_is_settled_on_more_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "SAMPLE", 8)
    broken = edited(onnx_folder(), tmp_path / "broken", scale_weight(weights_of(onnx_folder())[-1][0], -1))
    assert parity.compare(onnx_folder(), broken, 0.98, TEXTS, 1)["examples"] == len(TEXTS) + parity.PADDED_ROWS
    assert parity.compare(onnx_folder(), onnx_folder(), 0.98, TEXTS, 1)["examples"] == 8 + parity.PADDED_ROWS


def _engine_against_its_graph(engine: Path, tmp_path: Path) -> dict[str, object] | None:
    with WorkerProcess("engine", 1) as worker:
        worker.call("open", folder=str(engine), threads=1)
        reference = engine_parity.Reference(onnx_folder(), 1.0, onnx_folder())
        return engine_parity.measure(worker, read_engine(engine), reference, context(tmp_path))


def test_an_engine_that_is_not_its_graph_fails_and_the_node_is_named(tmp_path: Path) -> None:
    engine = engine_folder(tmp_path / "engine", attention="plain")
    sound = _engine_against_its_graph(engine, tmp_path)
    assert sound is not None
    assert (sound["passed"], sound["flips"], sound["floor"]) == (True, 0, 1.0)
    weight, _ = weights_of(engine)[-2]
    found = _engine_against_its_graph(edited(engine, tmp_path / "other", scale_weight(weight, -3)), tmp_path)
    assert found is not None
    assert found["passed"] is False
    verdict = gates.parity([], found)
    assert verdict.evidence.startswith("introduced by the engine, first diverging node ")


def test_an_engine_that_is_wrong_for_single_texts_alone_fails(tmp_path: Path) -> None:
    def turn_when_alone(model: Any) -> None:
        """Negates the logits of a batch of one."""
        last = next(node for node in model.graph.node if "logits" in node.output)
        last.output[list(last.output).index("logits")] = "right"
        make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
        model.graph.initializer.extend(
            [tensor(np.array(v), n) for n, v in (("at.0", 0), ("one", 1))]
            + [tensor(np.array(v, np.float32), n) for n, v in (("minus", -1), ("plus", 1))]
        )
        model.graph.node.extend([
            make("Shape", ["input_ids"], ["shape"]), make("Gather", ["shape", "at.0"], ["rows"]),
            make("Equal", ["rows", "one"], ["alone"]), make("Where", ["alone", "minus", "plus"], ["sign"]),
            make("Mul", ["right", "sign"], ["logits"]),
        ])  # fmt: skip

    engine = engine_folder(tmp_path / "engine", offline=False)
    found = _engine_against_its_graph(edited(engine, tmp_path / "other", turn_when_alone), tmp_path)
    assert found is not None
    assert found["passed"] is False


@pytest.mark.parametrize(
    ("passes", "dialect", "half", "precision", "floor"),
    [
        (1.0, "standard", False, "f32", 1.0),
        (1.0, "standard", False, "bf16", 0.998),
        (1.0, "standard", True, "f32", 0.998),
        (0.98, "standard", False, "bf16", 0.98),
        (1.0, "qdq", False, "f32", 0.98),  # it came in quantized
        (0.95, "qdq", False, "f32", 0.95),
    ],
)
def test_an_engine_owes_what_its_passes_and_its_precision_leave(
    passes: float, dialect: str, half: bool, precision: str, floor: float
) -> None:
    assert engine_parity.floor_of(passes, dialect, half, precision)[0] == floor
