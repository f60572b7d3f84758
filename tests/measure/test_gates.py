from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import context, engine_folder, onnx_folder
from tests.optimize.variants import made
from toolchain.certainty.statistics import Interval
from toolchain.engines import onnxruntime as engine
from toolchain.engines.onnxruntime import fusion
from toolchain.engines.shared.artifact import read_engine
from toolchain.measure import evaluate, gates
from toolchain.measure.engine_parity import Reference
from toolchain.measure.gates import Verdict, measurably_faster, never_slower, placement
from toolchain.optimize import static_int8


def test_an_engine_whose_interval_holds_one_everywhere_is_not_faster() -> None:
    verdict = never_slower({"batch 1": Interval(1.2, 0.97, 1.4), "batch 32": Interval(0.8, 0.7, 0.9)})
    assert not verdict.passed
    assert verdict.evidence == "batch 1: 1.20x [0.97, 1.40]; batch 32: 0.80x [0.70, 0.90]"


def test_faster_at_one_setting_is_enough_to_be_more_than_size_only() -> None:
    speedups = {"batch 1": Interval(0.9, 0.8, 0.95), "batch 32": Interval(2.0, 1.9, 2.1)}
    assert never_slower(speedups).passed
    assert [measurably_faster(ratio) for ratio in speedups.values()] == [False, True]


def test_a_lower_bound_of_exactly_one_is_not_measurably_faster() -> None:
    assert not measurably_faster(Interval(1.5, 1.0, 2.0))


def test_what_was_never_timed_is_not_faster() -> None:
    verdict = never_slower({})
    assert not verdict.passed
    assert verdict.evidence == "nothing was timed"


def test_nodes_that_fell_back_to_another_provider_fail_placement() -> None:
    verdict = placement({"CUDAExecutionProvider": 118, "CPUExecutionProvider": 2}, "CUDAExecutionProvider")
    assert not verdict.passed
    assert verdict.evidence == (
        "CUDAExecutionProvider was asked for; nodes: 2 on CPUExecutionProvider, 118 on CUDAExecutionProvider"
    )


def test_placement_holds_when_every_node_is_where_it_was_asked_for() -> None:
    assert placement({"CPUExecutionProvider": 120, "CUDAExecutionProvider": 0}, "CPUExecutionProvider").passed


def test_placement_that_nothing_reported_is_not_taken_on_trust() -> None:
    assert not placement({}, "CPUExecutionProvider").passed


def test_an_engine_with_one_place_only_is_judged_by_where_its_nodes_are() -> None:
    assert placement({"CPU": 57}, "").passed
    assert not placement({"CPU": 56, "GPU": 1}, "").passed
    assert placement({}, "").reason == "the engine reports no nodes"


def test_int8_products_that_run_in_float_fail_placement(tmp_path: Path) -> None:
    """The fault: a runtime that is told not to optimize multiplies what it has dequantized."""
    quantized, _ = made(static_int8, onnx_folder(), tmp_path / "int8", calibration_samples=8)
    counts = {}
    for level in ("all", "disabled"):
        out = tmp_path / level
        out.mkdir()
        engine.build(quantized, out, engine.Config(optimization=level), context(tmp_path))
        for name in ("tokenizer.json", "interface.json"):
            (out / name).write_bytes((quantized / name).read_bytes())
        settings = evaluate.Config(invariance="off", isa="off")
        evaluate.evaluate(out, out, settings, context(tmp_path), Reference(quantized, 0.98, quantized))
        counts[level] = evaluate.read(out)
    # 2 layers with 6 matrices each, the pooler and the classifier.
    assert counts["all"]["int8_products"] == [14, 14]
    assert counts["disabled"]["int8_products"] == [0, 14]
    sound, faulty = (gates.of_engine([], None, counts[level], "CPUExecutionProvider")[2] for level in counts)
    assert (sound.gate, sound.passed) == ("placement", True)
    assert faulty.failed
    assert faulty.evidence.endswith("int8 products in integers: 0 of 14, 14 in float")


def test_fewer_fused_attentions_than_layers_fail_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: the rule gives up after the first layer."""
    rule, calls = fusion._attention, iter((True,))

    def first_only(*arguments: Any) -> bool:
        return next(calls, False) and rule(*arguments)

    sound = gates.fusion(read_engine(engine_folder(tmp_path / "sound")).extra["fusion"])
    assert sound.passed
    assert sound.evidence.startswith("attention 2 of 2, layer_norm 5 of 5, gelu 2 of 2")
    monkeypatch.setattr(fusion, "_attention", first_only)
    faulty = gates.fusion(read_engine(engine_folder(tmp_path / "faulty")).extra["fusion"])
    assert faulty.failed
    assert faulty.evidence.startswith("attention 1 of 2, ")


def test_fusion_that_is_not_claimed_is_a_label_and_bars_nothing() -> None:
    counts = {"attention": [0, 2], "gelu": [2, 2]}
    label = gates.of_engine([], counts, {}, "", "a label only: it is the baseline")[1]
    assert (label.gate, label.passed, label.label) == ("fusion", False, True)
    assert label.evidence == "attention 0 of 2, gelu 2 of 2; a label only: it is the baseline"
    barred = gates.of_engine([], counts, {}, "")[1]
    assert gates.binding([label, barred]) == [barred]
    assert gates.fusion({"attention": [2, 2]}, "a label only: it is the baseline") == Verdict(
        "fusion", True, "attention 2 of 2"
    )


def test_no_gate_passes_that_was_not_run() -> None:
    verdicts = gates.complete(gates.of_engine([], None, {}, ""), "it is the baseline")
    assert [verdict.gate for verdict in verdicts] == list(gates.GATES)
    assert [verdict.passed for verdict in verdicts] == [None] * 6
    assert [verdict.evidence for verdict in verdicts] == [f"not run: {verdict.reason}" for verdict in verdicts]
    assert verdicts[4].reason == "it is the baseline"
    assert {verdict.reason for verdict in verdicts if verdict.gate in ("placement", "invariance", "isa")} == {
        "the engine was not evaluated"
    }


def compared(**found: Any) -> dict[str, Any]:
    """A comparison that passed, but for what is given."""
    sound = {"passed": True, "flips": 0, "ties": 0, "examples": 132, "max_difference": 2e-6, "non_finite": 0}
    return {**sound, **found}


def test_a_pass_behind_the_broken_one_is_not_blamed() -> None:
    passes = [
        compared(**{"pass": "clean"}),
        compared(**{"pass": "broken", "passed": False, "flips": 40, "introduced_by": "broken", "first": "MatMul n"}),
        compared(**{"pass": "dynamic_int8", "passed": False, "flips": 41, "introduced_by": "broken", "first": None}),
    ]
    verdict = gates.parity(passes, None)
    assert verdict.failed
    assert verdict.evidence.startswith("introduced by broken, first diverging node MatMul n; clean: 0 of 132 labels")


def test_a_comparison_that_could_not_be_made_leaves_parity_open() -> None:
    skipped = {"pass": "odd", "passed": None, "reason": "ONNX Runtime has no kernel\nfor it"}
    verdict = gates.parity([compared(**{"pass": "clean"}), skipped], compared())
    assert (verdict.passed, verdict.reason) == (None, "ONNX Runtime has no kernel")
    failed = gates.parity([skipped], compared(passed=False))
    assert failed.failed, "what was compared and failed stays failed"


def test_only_binding_failures_bar_an_engine() -> None:
    verdicts = [Verdict(gate, False, "") for gate in gates.GATES]
    assert [verdict.gate for verdict in gates.binding(verdicts)] == ["parity", "fusion", "placement", "invariance"]
