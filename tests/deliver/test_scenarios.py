from __future__ import annotations

from typing import Any

from toolchain.deliver.report.scenarios import scenarios, told

FAILED = ["depends on batch: label flips 15"]
LOW = ["accuracy too low: accuracy 89.00 %, at least 89.10 % is asked"]


def engine(name: str, accuracy: float, size: float, ms: float, rate: float, **more: Any) -> dict[str, Any]:
    """An engine whose baseline takes 10 ms and does 100 sentences per second; its speedups are within a tenth."""
    gains = {
        f"speedup_batch_{batch}{end}": gain * factor
        for batch, gain in ((1, 10 / ms), (32, rate / 100))
        for end, factor in (("", 1), ("_low", 0.92), ("_high", 1.08))
    }
    figures = {"accuracy_percent": accuracy, "accuracy_change_points": accuracy - 90, "size_mb": size}
    times = {"latency_engine_p50_ms": ms, "latency_engine_p99_ms": 2 * ms, "per_s_sorted_engine_batch_32": rate}
    known = {"model": "bert", "seed": 17, "engine": "onnxruntime", "baseline": False, "settings": {"provider": "cpu"}}
    return {"name": name, "engine_key": f"key-{name}", "gates": [], **known, **figures, **times, **gains, **more}


BASE = engine("base", 90, 100, 10, 100, baseline=True)


def names(lines: list[dict[str, Any]]) -> dict[str, str | None]:
    return {found["scenario"]: found["name"] for found in scenarios(lines)}


EDGE, SERVER, GPU = "edge CPU, one text at a time", "server CPU, throughput at batch 32", "GPU, batch 32"


def test_the_fastest_that_keeps_accuracy_is_taken_at_each_setting() -> None:
    lines = [
        BASE,
        engine("quick", 90, 50, 2, 300),
        engine("wide", 90, 60, 5, 900),
        engine("loose", 89, 5, 1, 5000, barred=LOW),
    ]
    assert names(lines) == {EDGE: "quick", SERVER: "wide"}


def test_among_those_not_told_apart_the_smallest_is_taken_or_by_a_server_one_that_is_surely_more_accurate() -> None:
    sure = {"accuracy_change_points_low": 0.4, "accuracy_change_points_high": 1.6}
    level = {"accuracy_change_points_low": -0.6, "accuracy_change_points_high": 0.2}
    lines = [
        BASE,
        engine("first", 90, 50, 2, 500, **level),
        engine("small", 89.5, 20, 2.1, 480, **level),
        engine("right", 91, 60, 2.2, 470, **sure),
    ]
    found = {each["scenario"]: each for each in scenarios(lines)}
    assert (found[EDGE]["name"], found[SERVER]["name"]) == ("small", "right")
    assert "not told apart in speed from first (2.00 ms), and smaller" in found[EDGE]["reasons"]
    assert "not told apart in speed from first (500 sentences/s), and more accurate" in found[SERVER]["reasons"]
    unsettled = [line | level for line in lines]  # 91 against 90 by chance: nobody is called more accurate
    server = next(each for each in scenarios(unsettled) if each["scenario"] == SERVER)
    assert server["name"] == "small"
    assert not any("more accurate" in reason for reason in server["reasons"])


def test_engines_of_other_models_are_not_tied_by_ratios_against_other_baselines() -> None:
    other = [engine("other", 91, 5, 2.1, 490, model="roberta"), {**BASE, "name": "roberta base", "model": "roberta"}]
    assert names([BASE, engine("first", 90, 50, 2, 500), *other])[EDGE] == "first"


def test_what_failed_a_gate_is_passed_over_and_named() -> None:
    lines = [BASE, engine("quick", 90, 50, 1, 900, barred=FAILED), engine("sound", 90, 60, 4, 400)]
    for each in scenarios(lines):
        assert each["name"] == "sound"
        assert any(reason.startswith("quick is faster") and "depends on batch" in reason for reason in each["reasons"])


def test_the_baseline_stays_where_nothing_is_measurably_faster() -> None:
    lines = [BASE, engine("same", 90, 50, 9.9, 101)]
    assert names(lines) == {EDGE: "base", SERVER: "base"}
    assert "nothing that qualifies is measurably faster" in scenarios(lines)[0]["reasons"][-1]


def test_a_choice_whose_rounds_spread_far_says_so() -> None:
    edge, server = scenarios([BASE, engine("quick", 90, 50, 2, 300) | {"speedup_batch_1_high": 9.9}])
    assert "its speed against its baseline is not settled: close other programs and measure again" in edge["reasons"]
    assert not any("settled" in reason for reason in server["reasons"])


def test_a_gpu_is_a_scenario_of_its_own_and_only_where_one_was_used() -> None:
    cuda = engine("cuda", 90, 100, 1, 9000, settings={"provider": "cuda"})
    assert names([BASE, engine("quick", 90, 50, 2, 300), cuda]) == {EDGE: "quick", SERVER: "quick", GPU: "cuda"}
    assert names([{**BASE, "settings": {"provider": "cuda"}}, cuda]) == {GPU: "cuda"}


def test_nothing_qualifies_is_said_and_nothing_timed_is_no_scenario() -> None:
    (edge, server) = scenarios([{**BASE, "barred": FAILED}])
    assert (edge["name"], server["name"]) == (None, None)
    assert told([edge]) == ["- **edge CPU, one text at a time**: no engine that may be shipped is timed at batch 1"]
    (edge, _) = scenarios([{**BASE, "barred": FAILED}, engine("slow", 90, 50, 20, 50)])
    assert edge["reasons"] == ["no engine that may be shipped is measurably faster than its baseline at batch 1"]
    untimed = {"name": "x", "model": "m", "seed": 1, "engine": "onnxruntime", "baseline": True, "accuracy_percent": 1.0}
    assert scenarios([untimed]) == []
