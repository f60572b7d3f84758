from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from toolchain.core.errors import RecipeError, StoreError
from toolchain.deliver.report import Report, Row, build_report, csv_text, markdown, terminal, to_json
from toolchain.deliver.report.footnotes import MARKS, footnotes
from toolchain.deliver.report.page import raster
from toolchain.pipeline.limits import Limits

EXAMPLES = 200
#: Any accuracy may be shipped, so that the score alone decides.
ANY = Limits(accuracy=0.0, confident=False)
EQUAL = {"accuracy": 1.0, "compression": 1.0, "speedup": 1.0}


#: The pictures beside a report, as PNG too where they can be made.
PICTURES = {
    "front.svg",
    *(f"{name}.{kind}" for name in ("accuracy", "parallel", "size") for kind in ("svg", *["png"] * raster.available())),
}


def evaluation(folder: Path, wrong: Sequence[int], size_mb: float) -> Path:
    """An evaluation of 200 examples, alternating classes, with these positions wrong."""
    folder.mkdir(parents=True)
    gold = np.arange(EXAMPLES) % 2
    predicted = gold.copy()
    predicted[list(wrong)] = 1 - predicted[list(wrong)]
    np.save(folder / "probabilities_test.npy", np.eye(2, dtype=np.float32)[predicted] * 0.8 + 0.1)
    record = {
        "splits": {"test": {"examples": EXAMPLES, "correct": EXAMPLES - len(wrong)}},
        "labels": {"test": gold.tolist()},
        "size_bytes": int(size_mb * 1e6),
        "zstd_bytes": int(size_mb * 0.9e6),
        "parameters": 22_713_602,
        "flops_per_example": None,
        "placement": {"CPUExecutionProvider": 120},
    }
    (folder / "evaluation.json").write_text(json.dumps(record))
    return folder


def timing(ms: Sequence[float], per_s: Sequence[float]) -> dict[str, Any]:
    """An engine's entry of timing.json; with the tokenizer everything takes twice as long."""
    middle, rate = float(np.median(ms)), float(np.median(per_s))

    def latency(factor: float) -> dict[str, Any]:
        percentiles = {"p50_ms": middle * factor, "p90_ms": middle * 2 * factor, "p99_ms": middle * 3 * factor}
        return {"rounds_ms": [value * factor for value in ms], **percentiles, "spread": 0.01}

    def throughput(factor: float) -> dict[str, Any]:
        rounds = [value * factor for value in per_s]
        return {"rounds_per_s": rounds, "median_per_s": rate * factor, "spread": 0.02}

    orders = {"sorted": 1.0, "data_order": 0.5}
    batches = {order: {"engine": throughput(f), "end_to_end": throughput(f / 2)} for order, f in orders.items()}
    settings = {"latency": {"engine": latency(1), "end_to_end": latency(2)}, "throughput": {"32": batches}}
    return {"load_s": 0.25, "peak_memory_bytes": 300_000_000, "energy_j": None, "settings": settings}


def row(folder: Path, variant: str, wrong: Sequence[int], size_mb: float, timed: dict[str, Any], **more: Any) -> Row:
    settings: dict[str, Any] = {
        "model": "bert",
        "engine": "ort",
        "seed": 17,
        "techniques": ["finetune", "export"],
        **more,
    }
    name = "-".join([settings["model"], variant, str(settings["seed"])])
    return Row(
        variant=variant, engine_key=name, evaluation=evaluation(folder / name, wrong, size_mb), timing=timed, **settings
    )


def three(folder: Path) -> list[Row]:
    """A baseline; int8: 4 x smaller, 2 x and 3 x faster, 4 more wrong; zeros: same bytes, same time, 2 more wrong."""
    int8, zeros = ["finetune", "export", "dynamic_int8"], ["finetune", "sparsify", "export"]
    return [
        row(folder, "zeros", range(22), 100, timing([10.1, 9.9, 10, 10.2], [99, 101, 100, 98]), techniques=zeros),
        row(folder, "int8", range(24), 25, timing([5, 5.1, 4.9, 5], [300, 303, 297, 300]), techniques=int8),
        row(folder, "base", range(20), 100, timing([10, 10.2, 9.8, 10], [100, 101, 99, 100]), baseline=True),
    ]


def report(rows: Sequence[Row], **more: Any) -> Report:
    settings: dict[str, Any] = {"weights": EQUAL, "speedup": "batch 1", "split": "test", "limits": ANY, **more}
    return build_report(rows, **settings)


def shown(found: Report, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(terminal(found))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def lines_of(found: Report) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in to_json(found)["lines"]}


def test_engines_are_ranked_by_the_weighted_score(tmp_path: Path) -> None:
    lines = lines_of(report(three(tmp_path)))
    assert list(lines) == ["int8/ort", "base/ort", "zeros/ort"]
    assert [line["rank"] for line in lines.values()] == [1, 2, 3]
    # 88 % + CR 100/25 + IS 10/5, and the baseline's 90 % + 1 + 1.
    assert lines["int8/ort"]["score"] == pytest.approx(88 + 4 + 2)
    assert lines["base/ort"]["score"] == pytest.approx(90 + 1 + 1)


def test_ratios_are_formed_against_the_baseline_at_every_setting(tmp_path: Path) -> None:
    line = lines_of(report(three(tmp_path)))["int8/ort"]
    assert line["compression"] == pytest.approx(4)
    assert line["speedup_batch_1"] == pytest.approx(2)
    assert line["speedup_batch_32"] == pytest.approx(3)
    # Every round's ratio is 2, in all four rounds.
    assert line["speedup_batch_1_low"] == pytest.approx(2)
    assert line["speedup_batch_1_high"] == pytest.approx(2)


def test_the_recipe_chooses_weights_and_setting_of_the_score(tmp_path: Path) -> None:
    weights = {"accuracy": 0.5, "compression": 2.0, "speedup": 10.0}
    lines = lines_of(report(three(tmp_path), weights=weights, speedup="batch 32"))
    assert lines["int8/ort"]["score"] == pytest.approx(0.5 * 88 + 2 * 4 + 10 * 3)


def test_accuracy_is_compared_on_the_same_examples(tmp_path: Path) -> None:
    line = lines_of(report(three(tmp_path)))["int8/ort"]
    assert line["accuracy_percent"] == 88
    # Wilson's interval of 176 in 200 by its formula: (0.88 + 0.0096 ± 1.96 · 0.02494) / 1.0192.
    assert line["accuracy_percent_low"] == pytest.approx(82.77, abs=0.02)
    assert line["accuracy_percent_high"] == pytest.approx(91.80, abs=0.02)
    assert line["accuracy_change_points"] == pytest.approx(-2)
    assert line["accuracy_change_points_low"] < -2 < line["accuracy_change_points_high"] <= 0
    # Four examples lost and none won: 2 · (1/2)^4.
    assert line["mcnemar_p"] == pytest.approx(0.125)
    assert line["label_flips"] == 4


def test_compressed_but_no_faster_is_size_only(tmp_path: Path) -> None:
    lines = lines_of(report(three(tmp_path)))
    assert {name: line["marks"] for name, line in lines.items()} == {
        "int8/ort": [],
        "base/ort": ["baseline"],
        "zeros/ort": ["no gain"],
    }
    gate = next(gate for gate in lines["zeros/ort"]["gates"] if gate["gate"] == "never slower")
    assert not gate["passed"]
    assert gate["evidence"].startswith("batch 1: ")


def test_an_uncompressed_engine_that_is_slow_is_not_size_only(tmp_path: Path) -> None:
    slow = row(tmp_path, "slow", range(20), 100, timing([20] * 4, [50] * 4), techniques=["finetune"])
    assert lines_of(report([*three(tmp_path), slow]))["slow/ort"]["marks"] == []


def test_faster_at_one_setting_and_slower_at_another_is_said(tmp_path: Path) -> None:
    mixed = row(tmp_path, "mixed", range(20), 50, timing([20] * 4, [150] * 4), techniques=["finetune", "dynamic_int8"])
    found = report([*three(tmp_path), mixed])
    assert lines_of(found)["mixed/ort"]["marks"] == ["slower at batch 1"]
    assert "slower @1" in shown(found, 120)


def test_an_unstable_setting_is_marked(tmp_path: Path) -> None:
    shaky = row(tmp_path, "shaky", range(20), 100, timing([9, 10, 11, 12], [100] * 4))
    assert lines_of(report([*three(tmp_path), shaky]))["shaky/ort"]["marks"] == ["unstable"]


def test_a_drift_that_all_engines_share_marks_none_of_them(tmp_path: Path) -> None:
    slower = [1.0, 1.2, 1.5, 2.0]
    rows = [
        row(tmp_path, "twice", range(20), 100, timing([5 * f for f in slower], [200 / f for f in slower])),
        row(
            tmp_path, "base", range(20), 100, timing([10 * f for f in slower], [100 / f for f in slower]), baseline=True
        ),
    ]
    lines = lines_of(report(rows))
    assert (lines["twice/ort"]["marks"], lines["base/ort"]["marks"]) == ([], ["baseline"])
    assert lines["twice/ort"]["speedup_batch_1_high"] == pytest.approx(2)


def test_nodes_on_another_provider_are_marked(tmp_path: Path) -> None:
    cuda = row(tmp_path, "gpu", range(20), 100, timing([1] * 4, [900] * 4), provider="CUDAExecutionProvider")
    line = lines_of(report([*three(tmp_path), cuda]))["gpu/ort"]
    assert (line["marks"], line["rank"]) == (["misplaced"], None)
    assert line["barred"] == ["misplaced: CUDAExecutionProvider was asked for; nodes: 120 on CPUExecutionProvider"]


def test_an_engine_that_is_partly_fused_is_labelled_and_may_be_recommended(tmp_path: Path) -> None:
    rows = [dataclasses.replace(each, fusion={"attention": [0, 2]}, partly="no claim") for each in three(tmp_path)]
    found = report(rows)
    assert all("partly fused" in line.marks and line.sound for line in found.lines)
    assert found.recommendations
    told = [text for label, text in footnotes(found) if label == "partly fused"]
    assert told[0] == MARKS["partly fused"]
    assert told[1].endswith(": attention 0 of 2; no claim")
    assert ("gate fusion", "attention, layer norm and GELU became single operators: 3 label") in footnotes(found)
    assert {gate["verdict"] for line in to_json(found)["lines"] for gate in line["gates"]} >= {"label"}


def test_a_missing_fusion_that_is_claimed_bars_all_but_the_baseline(tmp_path: Path) -> None:
    found = report([dataclasses.replace(each, fusion={"attention": [0, 2]}) for each in three(tmp_path)])
    assert [line.row.variant for line in found.lines if line.sound] == ["base"]
    assert {mark for line in found.lines for mark in line.marks} >= {"partly fused", "unfused"}


def test_recommendations_come_from_the_data_and_never_from_size_only(tmp_path: Path) -> None:
    rows = three(tmp_path)
    # 1 MB, and 45 % wrong: smallest of all, and no recommendation, for it keeps less than 99 % of the accuracy.
    rows.append(
        row(tmp_path, "broken", range(90), 1, timing([1] * 4, [999] * 4), techniques=["finetune", "dynamic_int8"])
    )
    # Keeps its accuracy, 20 MB, and 1 % slower at both settings.
    rows.append(row(tmp_path, "small", range(21), 20, timing([10.1] * 4, [99] * 4), techniques=["x"]))
    found = to_json(report(rows, limits=Limits()))
    chosen = {item["goal"]: item for item in found["recommendations"]}
    passed_over = "; broken/ort is ahead and may not be shipped: accuracy too low"
    assert chosen["smallest"]["name"] == "small/ort"
    assert chosen["smallest"]["reason"] == f"20.0 MB, 5.00x smaller, -0.50 points{passed_over}"
    assert chosen["fastest, batch 1"]["name"] == "base/ort"
    assert chosen["fastest, batch 32"]["name"] == "base/ort"
    assert chosen["best score"]["name"] == "small/ort"
    # 90 % · 0.99 = 89.1 %: int8 has 88, zeros 89; they stand below, by score, without a rank.
    assert [(line["name"], line["rank"]) for line in found["lines"]] == [
        ("small/ort", 1), ("base/ort", 2), ("broken/ort", None), ("int8/ort", None), ("zeros/ort", None),
    ]  # fmt: skip
    assert found["lines"][3]["barred"] == ["accuracy too low: accuracy 88.00 %, at least 89.10 % is asked"]
    assert found["rule"] == "at least 99 % of the best baseline's accuracy, as measured"


def test_limits_of_the_recipe_take_the_place_of_the_rule_and_intervals_decide(tmp_path: Path) -> None:
    rows = three(tmp_path)
    # int8: 25 MB, 88 %, 4 of 200 lost: -2 points, Tango's interval -5.03 to 0.
    lines = lines_of(report(rows, limits=Limits(drop=3, size_mb=24)))
    assert lines["int8/ort"]["marks"] == ["too large", "accuracy unsettled"]
    assert lines["base/ort"]["barred"] == ["too large: size 100 MB, at most 24.0 MB is asked"]
    lines = lines_of(report(rows, limits=Limits(drop=3, size_mb=26, confident=False)))
    assert next((name, line["rank"]) for name, line in lines.items()) == ("int8/ort", 1)
    lines = lines_of(report(rows, limits=Limits(accuracy=0, latency_ms=5.05)))
    # The rounds are 4.9 to 5.1 ms: their median is within 5.05 as measured, and the interval is not.
    assert lines["int8/ort"]["marks"] == ["speed unsettled"]
    assert lines["base/ort"]["marks"] == ["baseline", "too slow"]
    lines = lines_of(report(rows, limits=Limits(accuracy=0, engines=("zeros",))))
    assert [name for name, line in lines.items() if not line["barred"]] == ["zeros/ort"]


def test_the_fastest_is_named_with_its_gain(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "base", range(20), 100, timing([10] * 4, [100] * 4), baseline=True),
        row(tmp_path, "int8", range(21), 25, timing([5] * 4, [300] * 4), techniques=["dynamic_int8"]),
    ]
    chosen = {item["goal"]: item["reason"] for item in to_json(report(rows))["recommendations"]}
    assert chosen["fastest, batch 1"] == "5.00 ms, 2.00x as fast, -0.50 points"
    assert chosen["fastest, batch 32"] == "300/s, 3.00x as fast, -0.50 points"
    assert chosen["best score"] == "25.0 MB, 4.00x smaller, 2.00x as fast at batch 1, -0.50 points"


def test_each_model_is_ranked_against_its_own_baseline_in_one_table(tmp_path: Path) -> None:
    rows = three(tmp_path)
    rows.append(
        row(tmp_path, "base", range(30), 40, timing([4] * 4, [400] * 4), model="albert", baseline=True),
    )
    rows.append(row(tmp_path, "int8", range(30), 10, timing([1] * 4, [500] * 4), model="albert", techniques=["int8"]))
    lines = lines_of(report(rows))
    assert list(lines) == ["bert/int8/ort", "albert/int8/ort", "bert/base/ort", "bert/zeros/ort", "albert/base/ort"]
    assert lines["albert/int8/ort"]["compression"] == pytest.approx(4)
    assert lines["albert/int8/ort"]["speedup_batch_1"] == pytest.approx(4)
    assert lines["albert/base/ort"]["score"] == pytest.approx(85 + 2)


def test_each_seed_has_its_own_baseline_and_is_named(tmp_path: Path) -> None:
    rows = three(tmp_path)
    rows.append(row(tmp_path, "base", range(10), 100, timing([10] * 4, [100] * 4), seed=18, baseline=True))
    lines = lines_of(report(rows))
    assert lines["base/ort #18"]["accuracy_change_points"] == 0
    assert lines["int8/ort #17"]["accuracy_change_points"] == pytest.approx(-2)


def test_what_was_not_timed_stands_at_the_end_with_its_error(tmp_path: Path) -> None:
    failed = row(tmp_path, "compiled", range(0), 100, {"error": "no compiler\n  hint: install g++"})
    found = report([failed, *three(tmp_path)])
    line = to_json(found)["lines"][-1]
    assert (line["name"], line["rank"], line["score"], line["error"]) == (
        "compiled/ort",
        None,
        None,
        "no compiler\n  hint: install g++",
    )
    assert line["accuracy_percent"] == 100
    assert "- **not timed**: compiled/ort: no compiler hint: install g++" in markdown(found)
    assert "not timed" in shown(found, 100)


def test_without_a_baseline_there_is_no_ratio_and_no_rank(tmp_path: Path) -> None:
    (line,) = to_json(report([row(tmp_path, "int8", range(24), 25, timing([5] * 4, [300] * 4), techniques=["q"])]))[
        "lines"
    ]
    assert line["rank"] is line["score"] is line["compression"] is line["speedup_batch_1"] is None
    assert line["marks"] == []


def test_a_baseline_without_a_time_leaves_no_speedup_and_no_verdict(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "base", range(20), 100, {"error": "out of memory"}, baseline=True),
        row(tmp_path, "int8", range(24), 25, timing([5] * 4, [300] * 4), techniques=["dynamic_int8"]),
    ]
    line = lines_of(report(rows))["int8/ort"]
    assert line["compression"] == pytest.approx(4)
    assert line["score"] is line["speedup_batch_1"] is None
    assert line["marks"] == []


def test_neighbours_within_noise_are_marked_and_clear_ones_are_not(tmp_path: Path) -> None:
    rows = three(tmp_path)
    # One example more wrong than the baseline and the same bytes: 0.5 points apart, within the paired interval.
    rows.append(row(tmp_path, "twin", range(21), 100, timing([10, 10.2, 9.8, 10], [100] * 4)))
    rows.append(row(tmp_path, "half", range(100), 100, timing([10, 10.2, 9.8, 10], [100] * 4)))
    lines = lines_of(report(rows))
    # int8 is 2 ahead of the baseline; the 4 examples that it alone has wrong would be 8 in 5 % of other samples.
    assert {name: line["tied_with_previous"] for name, line in lines.items()} == {
        "int8/ort": False,
        "base/ort": True,
        "twin/ort": True,
        "zeros/ort": True,
        "half/ort": False,
    }
    assert "≈ 3" in shown(report(rows), 100)


def test_one_round_of_timing_claims_no_speed(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, "base", range(20), 100, timing([10], [100]), baseline=True),
        row(tmp_path, "int8", range(20), 25, timing([5], [300]), techniques=["dynamic_int8"]),
    ]
    line = lines_of(report(rows))["int8/ort"]
    assert line["speedup_batch_1"] == pytest.approx(2)
    assert line["speedup_batch_1_high"] is None
    assert line["marks"] == ["size only", "unstable"]


def test_a_report_of_nothing_is_still_a_report() -> None:
    found = report([], failed=[("base/ort", "no data")])
    assert to_json(found)["lines"] == []
    assert csv_text(found) == ""
    assert "base/ort: no data" in shown(found, 100)


def test_a_setting_that_was_not_timed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'batch 8'; timed: batch 1, batch 32"):
        report(three(tmp_path), speedup="batch 8")


def test_a_missing_weight_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="lacks speedup"):
        report(three(tmp_path), weights={"accuracy": 1.0, "compression": 1.0})


def test_an_evaluation_without_the_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no readable 'dev' split"):
        report(three(tmp_path), split="dev")


def test_probabilities_that_contradict_the_evaluation_are_refused(tmp_path: Path) -> None:
    rows = three(tmp_path)
    path = rows[0].evaluation / "probabilities_test.npy"
    np.save(path, np.load(path)[:, ::-1])
    with pytest.raises(StoreError, match="contradicts itself"):
        report(rows)
