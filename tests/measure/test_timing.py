from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.builders import LABELS, context, engine_folder, sentences
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError, EngineError, LostProcessError
from toolchain.measure import timing
from toolchain.measure.rounds import Setting, percentile, settled, spread
from toolchain.measure.timing import Config, sample_sizes, settings_of, time_engines
from toolchain.runtime.predictor import Predictor

QUICK = Config(batch_sizes=(1, 4), threads=1, seconds=0.1, rounds=3, sample=16, warmup=2)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two engines timed together, and what was written."""
    path = tmp_path_factory.mktemp("timed")
    engines = {"k1": engine_folder(path / "ort"), "k2": engine_folder(path / "plain", optimization="disabled")}
    metrics = time_engines(engines, path, QUICK, context(path))
    return {"metrics": metrics, **json.loads((path / "timing.json").read_text())}


def test_every_engine_has_every_setting_with_a_value_of_every_round(timed: dict[str, Any]) -> None:
    assert list(timed["engines"]) == timed["keys"] == ["k1", "k2"]
    for engine in timed["engines"].values():
        assert set(engine["settings"]) == {"latency", "throughput"}
        for clock in ("engine", "end_to_end"):
            latency = engine["settings"]["latency"][clock]
            assert 3 <= len(latency["rounds_ms"]) <= 9
            assert 0 < latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"]
            assert latency["calls"] >= len(latency["rounds_ms"]) * 16
            for order in ("data_order", "sorted", *(["padded"] if clock == "engine" else [])):
                throughput = engine["settings"]["throughput"]["4"][order][clock]
                assert 3 <= len(throughput["rounds_per_s"]) <= (9 if order == "sorted" else 3)
                assert min(throughput["rounds_per_s"]) <= throughput["median_per_s"] <= max(throughput["rounds_per_s"])
                assert throughput["spread"] == spread(throughput["rounds_per_s"])


def test_every_call_at_batch_1_counts_for_the_length_of_its_text(timed: dict[str, Any], tmp_path: Path) -> None:
    texts = context(tmp_path).dataset().test.texts
    known = {len(encoded) for encoded in Predictor(engine_folder(tmp_path / "engine"), 1).encode(texts)}
    for engine in timed["engines"].values():
        latency = engine["settings"]["latency"]["engine"]
        assert set(latency["lengths"]["tokens"]) <= known
        assert sum(latency["lengths"]["calls"]) == latency["calls"]
        assert min(latency["lengths"]["median_ms"]) <= latency["p50_ms"] <= max(latency["lengths"]["median_ms"])


def test_load_time_and_peak_memory_are_the_engines_own(timed: dict[str, Any]) -> None:
    for engine in timed["engines"].values():
        assert engine["load_s"] > 0
        # An interpreter with ONNX Runtime takes tens of megabytes; this one, with torch loaded, several hundred.
        assert 20e6 < engine["peak_memory_bytes"] < 300e6


def test_the_order_of_every_round_is_recorded_and_follows_from_the_seed(timed: dict[str, Any], tmp_path: Path) -> None:
    assert [sorted(order) for order in timed["order"]] == [[0, 1]] * timed["rounds"]
    engines = {key: engine_folder(tmp_path / key) for key in ("a", "b")}
    time_engines(engines, tmp_path, QUICK, context(tmp_path))
    again = json.loads((tmp_path / "timing.json").read_text())["order"]
    assert all(one == other for one, other in zip(again, timed["order"], strict=False))


def test_threads_machine_and_settings_are_recorded(timed: dict[str, Any]) -> None:
    from toolchain.measure.machine import machine

    assert timed["machine"] == machine()
    assert (timed["threads"], timed["warmup"], timed["sample"], timed["settled"]) == (1, 2, 16, 0.05)
    assert timed["metrics"]["rounds"] == timed["rounds"]
    assert timed["metrics"]["engines"] == 2
    assert timed["metrics"]["failed"] == {}


@pytest.mark.skipif(os.path.exists("/sys/class/powercap/intel-rapl:0"), reason="this machine counts energy")  # noqa: PTH110 - evaluated at import
def test_energy_is_absent_where_the_machine_does_not_count_it(timed: dict[str, Any]) -> None:
    assert {engine["energy_j"] for engine in timed["engines"].values()} == {None}


def test_an_engine_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    broken = engine_folder(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no model")
    engines = {"good": engine_folder(tmp_path / "good"), "bad": broken}
    metrics = time_engines(engines, tmp_path, QUICK, context(tmp_path))
    record = json.loads((tmp_path / "timing.json").read_text())["engines"]
    assert list(metrics["failed"]) == ["bad"]
    assert "broken" in record["bad"]["error"]
    assert len(record["good"]["settings"]["latency"]["engine"]["rounds_ms"]) == 3, "alone, there is nothing to settle"


def test_no_timing_with_a_dead_engine_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that the kernel killed for memory was published as an engine that cannot be timed, and stayed so."""
    measure = timing._measure

    def killed(engine: timing._Engine, *arguments: Any) -> None:
        if engine.key == "bad":
            engine.process._process.kill()
        measure(engine, *arguments)

    monkeypatch.setattr(timing, "_measure", killed)
    folder = engine_folder(tmp_path / "engine")
    with pytest.raises(LostProcessError, match="was ended by SIGKILL") as caught:
        time_engines({"good": folder, "bad": folder}, tmp_path, QUICK, context(tmp_path))
    assert "nothing is published: run it again" in caught.value.hint
    assert not (tmp_path / "timing.json").exists()


def test_a_set_that_fails_whole_is_an_error(tmp_path: Path) -> None:
    broken = engine_folder(tmp_path / "broken")
    (broken / "model.onnx").unlink()
    with pytest.raises(EngineError, match=r"no engine could be timed.*model\.onnx"):
        time_engines({"bad": broken}, tmp_path, QUICK, context(tmp_path))


def test_a_task_without_test_texts_is_an_error(tmp_path: Path) -> None:
    empty = Dataset(sentences().train, sentences().dev, Split([], []), LABELS)
    with pytest.raises(DataError, match="test split is empty"):
        time_engines({}, tmp_path, QUICK, context(tmp_path, empty))


def test_settings_are_two_at_batch_1_and_five_at_every_other_batch_size() -> None:
    settings = settings_of(Config(batch_sizes=(32, 8, 32)))
    assert len(settings) == len(set(settings)) == 2 + 5 * 2
    assert settings[:2] == [Setting(1, "padded", False), Setting(1, "padded", True)]
    assert Setting(8, "sorted", True).path == ("throughput", "8", "sorted", "end_to_end")


def test_the_sample_is_what_the_slowest_engine_gets_through_in_a_slice() -> None:
    # Slices of 42 s / 7 / 3 = 2 s; at 10 ms an example 200 fit at batch 1, at 8 ms 250 fit, which is 7 batches of 32.
    speeds, config = [{1: 0.001, 32: 0.001}, {1: 0.010, 32: 0.008}], Config(seconds=42.0)
    assert sample_sizes(speeds, config, 512) == {1: 200, 32: 224}
    assert sample_sizes(speeds, config, 100) == {1: 100, 32: 100}
    # At 1 s an example, 32 texts at batch 1 and 2 batches of 32 are the least.
    assert sample_sizes([{1: 1.0, 32: 1.0}], config, 512) == {1: 32, 32: 64}


def test_every_setting_has_the_same_rounds_for_all_engines(timed: dict[str, Any]) -> None:
    one, other = (engine["settings"] for engine in timed["engines"].values())
    for clock in ("engine", "end_to_end"):
        assert len(one["latency"][clock]["rounds_ms"]) == len(other["latency"][clock]["rounds_ms"])
        orders = ("sorted", "data_order")
        counts = [[len(found["throughput"]["4"][o][clock]["rounds_per_s"]) for o in orders] for found in (one, other)]
        assert counts[0] == counts[1]


def test_a_drift_that_engines_share_leaves_their_ratio_settled_and_noise_of_one_does_not() -> None:
    quiet = [1.00, 1.01, 0.99, 1.00, 1.02, 0.98, 1.00]
    drift = [1.0, 1.1, 1.3, 1.6, 2.0, 2.5, 3.0]  # the machine slows down threefold
    base = [a * d for a, d in zip(quiet, drift, strict=True)]
    twice = [0.5 * a * d for a, d in zip(reversed(quiet), drift, strict=True)]
    assert spread(base) > 0.5
    assert settled([base, twice], 0.05)
    noisy = [a * b for a, b in zip(twice, [1, 1.2, 0.8, 1.1, 1.3, 0.9, 1], strict=True)]
    assert not settled([base, twice, noisy], 0.05)
    assert settled([base], 0.05), "one engine has no ratio"


def engine_with(rounds_ms: list[float]) -> timing._Engine:
    """An engine that was timed at batch 1, one call a round."""
    slices = [{"calls_ms": [ms]} for ms in rounds_ms]
    return timing._Engine("k", Path(), None, slices={LATENCY: slices})  # type: ignore[arg-type]


LATENCY = Setting(1, "padded", False)


@pytest.mark.parametrize(
    ("rounds", "noise", "spent", "goes_on"),
    [
        (6, 0.0, 0.0, True),  # 7 rounds are the least
        (7, 0.0, 0.0, False),
        (7, 0.2, 0.0, True),
        (7, 0.2, 20.0, False),  # the budget: 10 seconds for each of two engines
        (20, 0.2, 19.9, True),
        (21, 0.2, 19.9, False),  # three times the least
    ],
)
def test_rounds_go_on_until_ratios_are_settled_or_the_budget_ends(
    rounds: int, noise: float, spent: float, goes_on: bool
) -> None:
    noisy = [1 + noise * (-1) ** number for number in range(rounds)]
    engines = [engine_with([2.0] * rounds), engine_with(noisy)]
    left = timing._unfinished([LATENCY], engines, rounds, {LATENCY: spent}, Config())
    assert left == ([LATENCY] if goes_on else [])


def test_settings_without_a_ratio_end_with_half_of_the_rounds() -> None:
    padded = Setting(32, "padded", False)
    engines = [engine_with([1.0]), engine_with([1.0])]
    ends = [not timing._unfinished([padded], engines, rounds, {padded: 0.0}, Config(rounds=9)) for rounds in (3, 4, 5)]
    assert ends == [False, True, True]


def test_spread_and_percentiles_are_those_of_the_textbook() -> None:
    # Quartiles of 1…5 are 2 and 4, the median is 3.
    assert spread([5, 1, 4, 2, 3]) == pytest.approx(2 / 3)
    assert spread([10.0, 10.0, 10.0]) == 0
    assert percentile([4, 1, 3, 2, 5], 0.5) == 3
    assert percentile([0, 10], 0.9) == pytest.approx(9)
    assert percentile([7], 0.99) == 7


def test_nothing_but_the_result_is_left_behind(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    time_engines({"k": engine_folder(tmp_path / "engine")}, out, QUICK, context(work))
    assert [path.name for path in out.iterdir()] == ["timing.json"]
    assert list(work.iterdir()) == []
