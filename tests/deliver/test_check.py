from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.builders import engine_folder
from tests.tiny import RECIPE, Result, call, republish, tiny
from toolchain.core.store import Store
from toolchain.deliver.check import judge
from toolchain.deliver.junit import Case, junit
from toolchain.deliver.report.figures import show
from toolchain.measure.machine import machine
from toolchain.pipeline import plan, recipe, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny run; bounds are no part of any key, so that all of it is hits."""
    tiny().copy(tmp_path)
    return tmp_path


def report(folder: Path, check: str, *more: str, recipe: str = RECIPE) -> Result:
    (folder / "tiny.yaml").write_text(f"{recipe}check: {check}\n", encoding="utf-8")
    return call("report", "tiny.yaml", "--store", "store", "--check", "--json", *more, cwd=folder)


def line(result: Result, name: str) -> dict[str, Any]:
    (found,) = (found for found in result.json["lines"] if found["name"] == name)
    return dict(found)


def test_bounds_that_hold_end_with_0_and_stand_beside_the_report(folder: Path) -> None:
    check = "[{accuracy: 0, gates: [parity]}, {engines: [dynamic-int8], size_ratio: 0.9, speedup: 1e-6, at: batch 4}]"
    (folder / "tiny.yaml").write_text(f"{RECIPE}check: {check}\n", encoding="utf-8")
    done = call("run", "tiny.yaml", "--store", "store", "--check", "--junit", "ci/junit.xml", "-o", "out", cwd=folder)
    assert done.code == 0, done.stderr
    assert "0 steps run" in done.stderr
    assert "checks: 6 passed, 0 failed, 0 skipped" in done.stderr
    assert "size_ratio" in done.stdout
    written = folder / "store/reports/tiny"
    for path in (written / "junit.xml", folder / "out/junit.xml", folder / "ci/junit.xml"):
        suite = ElementTree.parse(path).getroot()[0]
        assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("6", "0", "0")
        assert len(suite.findall("testcase")) == 6
    checks = json.loads((written / "checks.json").read_text("utf-8"))
    assert [(c["engine"], c["bound"]) for c in checks] == [
        ("base/onnxruntime", "accuracy"),
        ("base/onnxruntime", "gate parity"),
        ("dynamic-int8/onnxruntime", "accuracy"),
        ("dynamic-int8/onnxruntime", "gate parity"),
        ("dynamic-int8/onnxruntime", "size_ratio"),
        ("dynamic-int8/onnxruntime", "speedup at batch 4"),
    ]
    assert call("report", "tiny.yaml", "--store", "store", cwd=folder).code == 0
    assert (written / "junit.xml").exists()  # a report writes nothing where -o does not say so


def test_broken_bounds_end_with_3_and_say_value_bound_and_what_to_do(folder: Path) -> None:
    done = report(folder, "{size_ratio: 0.001, latency_ratio: 1e-9}", "--junit", "junit.xml")
    assert done.code == 3
    ratio = 1 / line(done, "dynamic-int8/onnxruntime")["compression"]
    size, time = done.json["checks"]  # the baseline is not held to what is relative to it
    assert (size["engine"], size["state"], size["value"]) == ("dynamic-int8/onnxruntime", "failed", ratio)
    assert time["bound"] == "latency_ratio at batch 1"
    assert f"size_ratio is {ratio:.3f} × the baseline's bytes, at most 0.001" in size["message"]
    assert "quantize or prune more" in size["message"]
    assert f"check failed: {size['message']}" in done.stderr
    suite = ElementTree.parse(folder / "junit.xml").getroot()[0]
    failures = [case.find("failure") for case in suite.findall("testcase")]
    assert [failure.get("message") for failure in failures if failure is not None] == [size["message"], time["message"]]


@pytest.mark.parametrize(
    ("bound", "figure", "sign"),
    [
        ("accuracy: 0", "accuracy_percent_low", 1),
        ("accuracy: 0, confident: false", "accuracy_percent", 1),
        ("accuracy_drop: 100", "not_worse_low", -1),
        ("accuracy_drop: 100, confident: false", "accuracy_change_points", -1),
        ("size_mb: 1000", "size_mb", 1),
        ("latency_ms: 1e9", "latency_engine_p50_ms_high", 1),
        ("latency_ms: 1e9, confident: false", "latency_engine_p50_ms", 1),
        ("latency_ms: 1e9, confident: false, scope: end_to_end", "latency_end_to_end_p50_ms", 1),
        ("per_s: 1e-9, at: batch 4", "per_s_sorted_engine_batch_4_low", 1),
        ("per_s: 1e-9, at: batch 4, confident: false", "per_s_sorted_engine_batch_4", 1),
        ("speedup: 1e-9, at: batch 4, confident: false", "speedup_batch_4", 1),
        ("speedup: 1e-9", "speedup_batch_1_low", 1),
    ],
)
def test_a_bound_reads_the_reports_own_figure(folder: Path, bound: str, figure: str, sign: int) -> None:
    done = report(folder, f"{{engines: [dynamic-int8/onnxruntime], {bound}}}")
    (check,) = done.json["checks"]
    assert check["value"] == pytest.approx(sign * line(done, "dynamic-int8/onnxruntime")[figure])
    assert (done.code, check["state"]) == (0, "passed"), check["message"]


def test_a_speedup_that_the_rounds_leave_open_is_not_passed_and_has_the_mark(folder: Path) -> None:
    (file,) = (folder / "store/timing").glob("*/timing.json")
    record = json.loads(file.read_text())
    base, other = (line(report(folder, "{accuracy: 0}"), f"{name}/onnxruntime") for name in ("base", "dynamic-int8"))
    rounds = base["timing"]["settings"]["latency"]["engine"]["rounds_ms"]
    timed = record["engines"][other["engine_key"]]["settings"]["latency"]["engine"]
    timed["rounds_ms"] = [ms / ratio for ms, ratio in zip(rounds, (0.59, 1.6, 11.9), strict=True)]
    republish(file, json.dumps(record))
    bound = "engines: [dynamic-int8], speedup: 1.5"
    assert report(folder, f"{{{bound}, confident: false}}").code == 0
    done = report(folder, f"{{{bound}}}")
    (check,) = done.json["checks"]
    assert (done.code, check["state"]) == (3, "failed")
    assert check["value"] == pytest.approx(0.59)
    assert "0.590 × as fast as the baseline at the worse end of its 95 % interval, 1.60 measured" in check["message"]


def test_a_drop_has_the_sign_that_the_change_has_in_the_table(folder: Path) -> None:
    done = report(folder, "{engines: [dynamic-int8], accuracy_drop: 99, confident: false}")
    (check,) = done.json["checks"]
    change = line(done, "dynamic-int8/onnxruntime")["accuracy_change_points"]
    assert check["found"] == f"{show(change, 2, sign=True)} points of change"
    assert check["limit"] == "at least -99.00 points of change"


def test_an_accuracy_that_is_just_kept_holds(folder: Path) -> None:
    accuracy = line(report(folder, "{accuracy: 0}"), "base/onnxruntime")["accuracy_percent"]
    at, above = (
        f"{{engines: [base], confident: false, accuracy: {value}}}" for value in (round(accuracy, 9), accuracy + 0.01)
    )
    assert report(folder, at).code == 0
    assert report(folder, above).code == 3


def test_a_gate_that_was_not_run_has_not_passed(folder: Path) -> None:
    done = report(folder, "{engines: ['*/onnxruntime'], gates: [never slower]}")
    found = {check["engine"]: check for check in done.json["checks"]}
    assert set(found) == {"dynamic-int8/onnxruntime"}  # the baseline has nothing to be slower than
    alone = RECIPE.replace("[onnxruntime]", "[onnxruntime, pytorch]")
    done = report(folder, "{engines: [base/pytorch], gates: [parity]}", recipe=alone)
    (check,) = done.json["checks"]
    assert (done.code, check["state"]) == (3, "failed")


def test_an_engine_without_a_result_fails_and_one_that_does_not_fit_is_skipped_unless_demanded(folder: Path) -> None:
    both = RECIPE.replace("[onnxruntime]", "[onnxruntime, pytorch]")
    done = report(folder, "{engines: ['*/pytorch'], accuracy: 0}", "--junit", "junit.xml", recipe=both)
    assert done.code == 3
    waiting, unfit = done.json["checks"]
    assert (waiting["engine"], waiting["state"], waiting["value"]) == ("base/pytorch", "failed", None)
    assert "not run yet" in waiting["message"]
    assert (unfit["engine"], unfit["state"]) == ("dynamic-int8/pytorch", "skipped")
    (skipped,) = ElementTree.parse(folder / "junit.xml").getroot().iter("skipped")
    assert skipped.get("message") == unfit["message"]
    assert "dynamic_int8 works on the ONNX graph" in unfit["message"]
    done = report(folder, "{engines: [dynamic-int8/pytorch], accuracy: 0, require: true}", recipe=both)
    assert done.code == 3
    assert "require: true" in done.json["checks"][0]["message"]


@pytest.mark.skipif(bool(machine()["gpus"]), reason="the engine that must fail runs here")
def test_checks_are_written_where_no_engine_could_be_built(folder: Path) -> None:
    cuda = RECIPE.replace("[onnxruntime]", "[{onnxruntime: {provider: cuda}}]")
    (folder / "tiny.yaml").write_text(f"{cuda}check: {{accuracy: 0}}\n", encoding="utf-8")
    done = call("run", "tiny.yaml", "--store", "store", "--check", "--junit", "junit.xml", cwd=folder)
    assert done.code == 1
    suite = ElementTree.parse(folder / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "2")


def test_a_report_of_junit_holds_what_vendors_say() -> None:
    said = 'a "quoted" <tag> & \x1b[31mred\x1b[0m \x00 \ud800 é\nnext'
    cases = [
        Case("r.<a>", "b&c", "failed", said, said),
        Case("r.b", "c", "skipped", said, ""),
        Case("r.c", "d", "passed", "", said),
    ]
    root = ElementTree.fromstring(junit("r & s", cases, {"cpu": said}))
    kept = 'a "quoted" <tag> & \ufffd[31mred\ufffd[0m \ufffd \ufffd é\nnext'
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("message") == failure.text == kept
    assert root.get("name") == "r & s"
    assert [case.get("classname") for case in root.iter("testcase")] == ["r.<a>", "r.b", "r.c"]


def test_what_cannot_be_checked_is_said_before_any_work(folder: Path) -> None:
    done = call("run", "tiny.yaml", "--store", "none", "--check", cwd=folder)
    assert (done.code, (folder / "none").exists()) == (1, False)
    assert "has no bounds to check" in done.stderr
    done = call("run", "tiny.yaml", "--store", "none", "--junit", "junit.xml", cwd=folder)
    assert (done.code, (folder / "none").exists()) == (2, False)
    assert "--check" in done.stderr


def test_several_models_and_seeds_are_told_apart(tmp_path: Path) -> None:
    two = RECIPE.replace(
        "model: scratch:bert-1x32", "models: {a: scratch:bert-1x32, b: scratch:bert-1x64}\nseeds: [1, 2]"
    )
    (tmp_path / "r.yaml").write_text(f"{two}check: {{engines: [a/base/onnxruntime, b/*], accuracy: 0}}\n", "utf-8")
    outcome, _ = run.preview(plan.make(recipe.load(tmp_path / "r.yaml")), Store(tmp_path / "store"))
    names = [check.engine for check in judge(outcome, None)]
    of_b = [f"b/{variant}/onnxruntime" for variant in ("base", "dynamic-int8")]
    assert names == [f"{name} #{seed}" for seed in (1, 2) for name in ("a/base/onnxruntime", *of_b)]


def test_what_came_as_an_engine_is_held_to_bounds_under_its_own_name(tmp_path: Path) -> None:
    engine_folder(tmp_path / "engine", "pytorch")
    (tmp_path / "r.yaml").write_text(
        f"variants: {{given: [{{adopt: {{path: {tmp_path / 'engine'}}}}}]}}\nengines: [onnxruntime, openvino]\n"
        "check: [{size_mb: 1}, {engines: [given], accuracy: 50}]\n",
        encoding="utf-8",
    )
    outcome, _ = run.preview(plan.make(recipe.load(tmp_path / "r.yaml")), Store(tmp_path / "store"))
    found = [(check.engine, check.bound, check.state) for check in judge(outcome, None)]
    assert found == [("given/pytorch", bound, "failed") for bound in ("size_mb", "accuracy")]  # not run yet
