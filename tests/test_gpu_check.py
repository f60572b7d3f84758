from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "benchmarks/gpu.sh"), *arguments]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_rehearsal_runs_every_part_and_leaves_no_path(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("--rehearse", "--output", str(out), "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out / "gpu.md")
    found = json.loads((out / "gpu.json").read_text(encoding="utf-8"))
    assert found["rehearsal"] is True
    assert found["failed"] == {}
    assert found["left_out"] == []
    assert any("MiniLM" in what for what in found["missing"])
    assert any(what.startswith("plans of TensorRT and TensorRT-RTX: ") for what in found["missing"]) or has_gpu()
    shapes = found["shapes"]["BERT-base"]
    names = {"ort fp32", "ort tf32", "ort fp16", "ort fp16 lengths", "ort fp16 graph", "torch fp32", "torch bf16"}
    assert names <= set(shapes["3 × 24"]["device"])
    assert {"ort fp32", "ort fp16", "torch fp32", "torch fp16"} <= set(shapes["3 × 24"]["host"])
    assert all(one["p10_ms"] <= one["median_ms"] <= one["p90_ms"] for one in shapes["3 × 24"]["device"].values())
    answers = found["answers"]["BERT-base"]["engines"]
    assert answers["torch fp32"]["max_difference"] == 0
    assert answers["ort fp32"]["max_difference"] < 1e-4
    assert answers["ort fp16 own"]["agreement"] > 0.9
    lengths = found["real_lengths"]["BERT-base, batches of 32"]["engines"]
    # Texts of some 30 tokens in the mean: padding to 128 computes four times as much.
    assert lengths["ort fp32"]["ratio"][0] > 1
    everything = "".join(
        (out / name).read_text(encoding="utf-8") for name in ("gpu.json", "gpu.md", "summary.md", "gpu.log")
    )
    assert str(tmp_path) not in everything
    assert str(ROOT) not in everything
    assert "A rehearsal on a processor" in (out / "gpu.md").read_text(encoding="utf-8")


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends_with_two(tmp_path: Path) -> None:
    done = run("--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "gpu: " in done.stderr
    assert "--rehearse" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_part_that_fails_is_written_down_and_one_without_time_is_named(tmp_path: Path) -> None:
    import time

    from gpu_check.record import Record

    record = Record(tmp_path / "out", 100, {str(tmp_path): "WORK"}, time.monotonic())

    def fail() -> None:
        raise RuntimeError(f"no such file: {tmp_path}/model.onnx")

    assert not record.part("one", 1, fail)
    assert not record.part("two", 1000, lambda: None)
    assert record.part("three", 1, lambda: None)
    found = json.loads((tmp_path / "out/gpu.json").read_text(encoding="utf-8"))
    assert found["failed"] == {"one": "RuntimeError: no such file: WORK/model.onnx"}
    assert found["left_out"] == ["two"]
    assert "Left out for want of time" in (tmp_path / "out/gpu.md").read_text(encoding="utf-8")


def test_rounds_are_interleaved_and_a_call_that_fails_does_not_stop_the_others() -> None:
    from gpu_check.rounds import Effort, summary, timed

    order: list[str] = []

    def call(name: str) -> Any:
        return lambda: order.append(name)

    def fail() -> None:
        raise ValueError("no kernel")

    samples, failed = timed({"a": call("a"), "b": call("b"), "c": fail}, Effort(rounds=3, turn_seconds=0))
    assert failed == {"c": "ValueError: no kernel"}
    assert {name: len(rounds) for name, rounds in samples.items()} == {"a": 3, "b": 3}
    # Four calls to warm up each, then three rounds of one call each, in any order.
    assert order[:8] == ["a"] * 4 + ["b"] * 4
    assert [sorted(order[start : start + 2]) for start in (8, 10, 12)] == [["a", "b"]] * 3
    fixed = {"a": [[0.002], [0.004]], "b": [[0.001], [0.001]]}
    found = summary(fixed, rows=8, baseline="a")
    assert found["b"]["ratio"] == [3.0, 2.0, 4.0]
    assert found["b"]["texts_per_second"] == 8000
