from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core.mounts import mounted
from tests.tiny import Result, call, made, tiny
from toolchain.core import registry, traces
from toolchain.core.store import Store
from toolchain.model import blueprint
from toolchain.pipeline import keys, run
from toolchain.pipeline import plan as plans
from toolchain.pipeline import recipe as recipes
from toolchain.pipeline.keys import Task
from toolchain.pipeline.run import Outcome

STEPS = 8  # finetune, export, optimize, two builds, two evaluations, one timing


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with a recipe and a store in which it has been run."""
    tiny().copy(tmp_path)
    return tmp_path


def _run(folder: Path, *argv: str) -> Result:
    return call("run", "tiny.yaml", "--store", "store", *argv, cwd=folder)


def _stages(folder: Path, before: set[str]) -> list[str]:
    """Stages of the artifacts that were not there before."""
    new = [a for a in Store(folder / "store").artifacts() if str(a.path) not in before]
    return sorted(str(a.manifest["parts"]["stage"]) for a in new)


def _paths(folder: Path) -> set[str]:
    return {str(a.path) for a in Store(folder / "store").artifacts()}


def _times(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for kind in ("checkpoint", "onnx", "engine", "evaluation", "timing")
            for p in sorted((folder / "store" / kind).rglob("*"))}  # fmt: skip


@pytest.mark.slow
def test_a_run_makes_every_artifact_and_ranks_the_engines() -> None:
    assert made(tiny().result) == STEPS
    kinds = sorted(artifact.kind for artifact in tiny().store.artifacts())
    assert kinds == ["checkpoint", *["engine"] * 2, *["evaluation"] * 2, *["onnx"] * 2, "timing"]
    rows = {row["variant"]: row for row in tiny().result.json["lines"]}
    assert rows.keys() == {"base", "dynamic-int8"}
    assert all(artifact.problems() == [] for artifact in tiny().store.artifacts())
    assert not (tiny().root / "store" / ".partial").exists()


def test_an_export_takes_the_graph_that_another_process_traced(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(os.environ[traces.VARIABLE], copied / "store" / traces.FOLDER)  # as without the variable
    monkeypatch.delenv(traces.VARIABLE)
    monkeypatch.setattr(blueprint, "_blueprints", type(blueprint._blueprints)())
    monkeypatch.setattr(torch.onnx, "export", None)
    graph = tiny().artifact("onnx", "export")
    shutil.rmtree(copied / "store" / "onnx" / graph.key)
    done = _run(copied)
    assert done.code == 0, done.stderr
    assert made(done) == 1
    assert Store(copied / "store").resolve(graph.key).digest == graph.digest


def test_what_was_done_is_recorded_in_order_down_to_the_engine() -> None:
    engine = next(a for a in tiny().store.artifacts() if a.kind == "engine" and "dynamic" in a.manifest["label"])
    history = json.loads((engine.path / "history.json").read_text())["techniques"]
    assert [entry["technique"] for entry in history] == ["finetune", "export", "dynamic_int8"]
    assert history[0]["config"]["epochs"] == 2
    assert [entry.get("seed") for entry in history] == [17, None, 17]


def test_the_second_run_is_all_hits_and_does_no_work(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any) -> None:
        raise AssertionError("a hit was done again")

    monkeypatch.setattr(run, "work_of", work)
    before = _times(copied)
    result = _run(copied, "--json")
    assert (result.code, made(result)) == (0, 0)
    assert _times(copied) == before
    assert result.json["lines"] == tiny().result.json["lines"]


@pytest.mark.parametrize(
    ("setting", "stages"),
    [
        ("dynamic_int8.per_channel=false", ["build", "evaluate", "optimize", "time"]),
        ("benchmark.rounds=4", ["time"]),
        ("report.weights.speedup=2", []),
        ("onnxruntime.offline=false", ["build", "build", "evaluate", "evaluate", "time"]),
    ],
)
def test_a_setting_runs_only_what_depends_on_it(copied: Path, setting: str, stages: list[str]) -> None:
    before = _paths(copied)
    assert _run(copied, "--set", setting).code == 0
    assert _stages(copied, before) == stages


def test_a_measurement_that_is_gone_is_taken_again_and_nothing_else(copied: Path) -> None:
    shutil.rmtree(copied / "store" / "timing")
    before = _paths(copied)
    result = _run(copied)
    assert (result.code, made(result), _stages(copied, before)) == (0, 1, ["time"])


def test_force_does_one_stage_again(copied: Path) -> None:
    before = _times(copied)
    result = _run(copied, "--force", "optimize")
    assert (result.code, made(result)) == (0, 1)  # its content is the same, so what reads it stays
    changed = {Path(path).parts[-3] for path, time in _times(copied).items() if before.get(path) != time}
    assert changed <= {"onnx", "store"}


def test_a_variant_that_fails_stops_no_other_and_is_named(copied: Path) -> None:
    recipe = (copied / "tiny.yaml").read_text()
    broken = "  broken: [export, {dynamic_int8: {exclude: [no_such_node]}}]\nengines"
    (copied / "tiny.yaml").write_text(recipe.replace("engines", broken))
    result = _run(copied, "--json")
    assert result.code == 1
    assert "failed: optimize broken · dynamic_int8: exclude: nothing in the graph matches no_such_node" in result.stderr
    assert {row["variant"] for row in result.json["lines"]} == {"base", "dynamic-int8"}
    assert "broken" in json.dumps(result.json["failed"])
    assert made(result) == 0  # the timing of the sound engines is the one that is there
    assert not [path for path in (copied / "store").glob(".partial/*/out")]


def test_a_bug_keeps_its_traceback_and_stops_no_other(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(registry.get("optimize", "dynamic_int8").module, "apply", crash)
    result = _run(copied, "--set", "dynamic_int8.per_channel=false")
    assert result.code == 1
    assert "failed: optimize dynamic-int8 · dynamic_int8: internal error: ZeroDivisionError: a bug" in result.stderr
    file = re.search(r"traceback, which is in (\S+)", result.stderr)
    assert file
    assert "Traceback (most recent call last)" in Path(file[1]).read_text("utf-8")


def test_missed_gates_alone_exit_with_3(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny().recipe.read_text())
    plan = plans.make(recipes.load(tmp_path / "tiny.yaml"))
    outcome = Outcome(plan, Task(plan.recipe))
    assert outcome.exit_code == 0
    outcome.failed["step"] = "export: at shape 1x3 …"
    outcome.codes.add(3)
    assert outcome.exit_code == 3
    outcome.codes.add(1)
    assert outcome.exit_code == 1


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    shutil.copy(tiny().recipe, tmp_path)
    result = _run(tmp_path, "--dry-run", "--json")
    assert result.code == 0
    assert [step["status"] for step in result.json["steps"]] == ["run", *["run (after its inputs)"] * (STEPS - 1)]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    tiny().copy(tmp_path)
    assert {step["estimated_s"] for step in result.json["steps"]} == {None}
    after = _run(tmp_path, "--dry-run", "--json", "--set", "dynamic_int8.per_channel=false").json["steps"]
    assert [step["stage"] for step in after if step["status"] == "hit"] == ["finetune", "export", "build", "evaluate"]
    again = next(step for step in after if step["stage"] == "optimize")
    like = tiny().artifact("onnx", "dynamic_int8")
    assert (again["estimated_s"], again["estimated_bytes"]) == (like.manifest["duration_s"], like.size_bytes)
    told = _run(tmp_path, "--dry-run", "--set", "dynamic_int8.per_channel=false").stdout
    assert "time and disk: about " in told
    counted = _run(tmp_path, "--set", "benchmark.rounds=4").stderr
    assert "7 of 8 steps from the store" in counted
    assert "[1/1] time" in counted


def test_a_version_that_was_raised_makes_the_technique_run_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = registry.get("optimize", "dynamic_int8").module
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    before = _paths(copied)
    result = _run(copied)
    assert (result.code, made(result), _stages(copied, before)) == (
        0,
        4,
        ["build", "evaluate", "optimize", "time"],
    )  # the history tells it


def test_a_source_that_changed_under_the_same_version_is_said(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.Technique, "source_digest", property(lambda technique: "0" * 64))
    result = _run(copied)
    assert (result.code, made(result)) == (0, 0)
    assert result.stderr.count("under the same VERSION") == STEPS
    assert "dynamic_int8's source under the same VERSION; --force optimize makes it again" in result.stderr


def test_a_run_that_is_all_hits_reads_no_data(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.get("tasks", "reviews").module, "load", None)
    result = _run(copied)
    assert (result.code, made(result)) == (0, 0), result.stderr


def test_a_report_comes_from_the_store_alone(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "work_of", None)
    result = call("report", "tiny.yaml", "--store", "store", "--json", "-o", "out", cwd=copied)
    assert result.code == 0
    assert result.json["lines"] == tiny().result.json["lines"]
    assert {"report.md", "report.csv", "report.json"} <= {path.name for path in (copied / "out").iterdir()}


def test_a_stage_command_ends_at_its_stage(copied: Path) -> None:
    result = call("build", "tiny.yaml", "--store", "store", "--json", "-o", "out", cwd=copied)
    assert result.code == 0
    assert [(item["kind"], item["made"]) for item in result.json] == [("engine", False)] * 2
    assert (copied / "out" / "base" / "onnxruntime" / "engine.json").is_file()


def test_gc_keeps_what_the_recipe_needs(copied: Path) -> None:
    assert _run(copied, "--set", "dynamic_int8.per_channel=false").code == 0
    result = call("gc", "tiny.yaml", "--store", "store", "--yes", "--json", cwd=copied)
    assert (len(result.json["removed"]), result.json["kept"]) == (4, STEPS)
    again = _run(copied)
    assert (again.code, made(again)) == (0, 0)


@pytest.mark.slow
def test_a_disk_that_fills_up_is_a_clear_error_and_the_next_run_goes_on(tmp_path: Path) -> None:
    import subprocess

    with mounted(tmp_path / "small", "700k") as folder:
        shutil.copy(tiny().recipe, folder)
        full = _run(folder)
        assert full.code == 1
        assert "No space left on device" in full.stderr
        assert "toolchain gc RECIPE" in full.stderr
        assert "Traceback" not in full.stderr
        store = Store(folder / "store")
        assert all(artifact.problems() == [] for artifact in store.artifacts())
        subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
        result = _run(folder)
        assert result.code == 0, result.stderr
        # An engine's options are tuned by time, and what is measured of it has its bytes in the key.
        before_time = ("checkpoint", "onnx", "engine")
        assert {a.key for a in store.artifacts() if a.kind in before_time} == {
            a.key for a in tiny().store.artifacts() if a.kind in before_time
        }
        with contextlib.suppress(FileNotFoundError):
            assert list((folder / "store" / ".partial").iterdir()) == []


def test_a_new_runtime_is_measured_anew_though_the_engine_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = plans.make(recipes.load(tiny().recipe))
    steps = [step for step in made.steps.values() if step.stage in ("evaluate", "time")]
    engines = [artifact for artifact in tiny().store.artifacts() if artifact.kind == "engine"]
    task = Task(made.recipe)
    before = [keys.parts(step, engines, task, made.recipe, 1) for step in steps]
    monkeypatch.setattr(keys, "installed", lambda name: "9.9.9")
    after = [keys.parts(step, engines, task, made.recipe, 1) for step in steps]
    assert steps
    assert all(old["runtimes"] != new["runtimes"] for old, new in zip(before, after, strict=True))
    assert before[-1]["engines"] == [artifact.key for artifact in engines]


@pytest.mark.parametrize("tune", [True, False])
def test_an_engine_that_was_tuned_is_not_another_number_of_threads(tune: bool) -> None:
    made = plans.make(recipes.load(tiny().recipe, [f"onnxruntime.tune={str(tune).lower()}"]))
    build = next(step for step in made.steps.values() if step.stage == "build")
    graphs = [artifact for artifact in tiny().store.artifacts() if artifact.kind == "onnx"][:1]
    one, two = (keys.parts(build, graphs, Task(made.recipe), made.recipe, threads) for threads in (1, 2))
    assert (one != two) is tune
    assert ("task" in one) is tune  # whose dev texts it is tuned on


def test_a_training_is_the_same_whatever_threads_engines_are_timed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {threads: plans.make(recipes.load(tiny().recipe, [f"benchmark.threads={threads}"])) for threads in (1, 2, 7)}
    steps = {threads: {step.stage: step for step in plan.steps.values()} for threads, plan in made.items()}
    monkeypatch.setattr(run, "physical_cores", lambda: 4)
    for variable, cores in (("", 4), ("2", 2), ("8", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
        assert {run._threads(made[threads], steps[threads]["finetune"]) for threads in made} == {cores}
        assert [run._threads(made[threads], steps[threads]["time"]) for threads in made] == [1, 2, 7]
    of_training = [
        keys.parts(steps[threads]["finetune"], [], Task(plan.recipe), plan.recipe, threads)
        for threads, plan in made.items()
    ]
    assert of_training[0] == of_training[1] == of_training[2]


def test_a_clock_that_is_set_back_makes_no_negative_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = keys.Clock()
    monkeypatch.setattr(time, "time", lambda: clock.began - 3600)
    assert 0 <= clock.seconds() < 60


@pytest.mark.slow
def test_what_was_measured_is_reported_though_another_engine_failed(copied: Path) -> None:
    more = ["--set", "variants.halved=[export, {bf16: {compute: true}}]"]  # ONNX Runtime has no kernels for it
    ran = _run(copied, *more, "--json")
    assert ran.code == 1
    again = call("report", "tiny.yaml", "--store", "store", *more, "--json", cwd=copied)
    assert again.code == 0, again.stderr
    assert [line["name"] for line in again.json["lines"]] == [line["name"] for line in ran.json["lines"]]
    assert all(line["speedup_batch_1"] for line in again.json["lines"])
    assert again.json["not_run"] == [{"name": "halved/onnxruntime", "reason": "not run yet"}]
    assert again.json["failed"] == []


@pytest.mark.slow
def test_a_part_of_a_recipe_says_so_and_is_kept_with_the_rest(copied: Path) -> None:
    _run(copied, "--variant", "base", "--json")
    part = call("report", "tiny.yaml", "--store", "store", "--variant", "base", "--json", cwd=copied)
    assert [line["name"] for line in part.json["lines"]] == ["base/onnxruntime"]
    assert part.json["notes"][0] == "a part of the recipe, 1 of 2 variants: base"
    assert call("gc", "tiny.yaml", "--store", "store", "--dry-run", "--json", cwd=copied).json["removed"] == []
    more = ["--variant", "base", "--set", "benchmark.seconds=0.06"]
    asked = call("report", "tiny.yaml", "--store", "store", *more, cwd=copied)
    assert asked.code == 1
    assert "toolchain run tiny.yaml --set benchmark.seconds=0.06 --variant base --store store" in asked.stderr
    assert "1 of " in asked.stderr
    more = ["--check", "--set", "check=[{size_mb: 5}]", "--set", "benchmark.seconds=0.06"]
    checked = call("report", "tiny.yaml", "--store", "store", *more, cwd=copied)
    assert "'check=[{size_mb: 5}]' --set benchmark.seconds=0.06 --check --store store" in checked.stderr


def test_a_stage_that_has_nothing_to_do_says_so(tmp_path: Path) -> None:
    graph = tiny().artifact("onnx", "export").path / "model.onnx"
    result = call("build", str(graph), "-e", "pytorch", "-o", "out", "--store", "store", cwd=tmp_path)
    assert result.code == 1
    assert "there is nothing to build: model/pytorch: only an ONNX graph was given" in result.stderr
    assert not (tmp_path / "out").exists()
