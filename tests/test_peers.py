from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import checkpoint_folder, context, onnx_folder, sentences
from tests.command import ROOT
from toolchain.core.errors import ToolchainError
from toolchain.engines import onnxruntime as engine
from toolchain.engines.onnxruntime.session import session_options
from toolchain.engines.onnxruntime.tuning import Options
from toolchain.measure import evaluate, timing
from toolchain.runtime.predictor import Predictor


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def module(name: str) -> Any:
    return importlib.import_module(name)


def task_of(folder: Path, checkpoint: Path) -> Any:
    calibration = folder / "calibration.json"
    calibration.write_text(json.dumps([list(text) for text in sentences().train.texts]))
    return module("peer_tools.jobs").Task(
        checkpoint=checkpoint, digest="0", data=sentences(), folder=None, identity={"made": "up"},
        calibration=calibration, max_length=32, pad_id=0,
    )  # fmt: skip


def made_by_a_tool(folder: Path) -> Path:
    """A folder as a tool's script leaves it: somebody's ONNX file, and what it took to make it."""
    folder.mkdir()
    shutil.copyfile(onnx_folder() / "model.onnx", folder / "model.onnx")
    result = {"files": ["model.onnx"], "versions": {}, "peak_memory_bytes": 10**8, "wall_s": 12.0}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.mark.slow
def test_a_foreign_onnx_file_is_opened_evaluated_and_timed_by_our_harness(tmp_path: Path) -> None:
    job = next(module("peer_tools.jobs").peers())
    folder = module("peers").wrapped(made_by_a_tool(tmp_path / "made"), job, checkpoint_folder())
    assert (folder / "model.onnx").samefile(tmp_path / "made/model.onnx")
    given = Predictor(folder, threads=1)
    session = module("onnxruntime").InferenceSession(
        str(onnx_folder() / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    batch = given.collate(given.encode([("a warm film",), ("dull",)]))
    assert np.abs(given.session.run(batch)["logits"] - session.run(None, dict(batch))[0]).max() <= 1e-5

    (tmp_path / "evaluation").mkdir()
    evaluate.evaluate(folder, tmp_path / "evaluation", evaluate.Config(invariance="off"), context(tmp_path / "work"))
    config = timing.Config(batch_sizes=(1, 32), threads=1, rounds=3, seconds=0.03, sample=32, warmup=1)
    timing.time_engines({job.name: folder}, tmp_path, config, context(tmp_path / "work"))
    timed = json.loads((tmp_path / "timing.json").read_text())
    table = module("peer_tools.table")
    accuracy = json.loads((tmp_path / "evaluation/evaluation.json").read_text())["splits"]
    line = {
        "name": job.name, "tool": job.tool, "whose": job.whose, "size_bytes": 1, "wall_s": 12.0,
        "peak_memory_bytes": 10**8, "accuracy": {split: accuracy[split]["accuracy"] for split in ("dev", "test")},
    }  # fmt: skip
    found = table.record([line], {1: timed}, FACTS)["timed"]["1"]["per_s"][job.name]
    assert set(found) == set(table.PLACES)  # every place is one that the harness measures
    assert all(speed["median"] > 0 for speed in found.values())


def test_a_peers_requests_stay_whole_and_what_is_sorted_comes_in_full_batches(tmp_path: Path) -> None:
    jobs, wrapped = list(module("peer_tools.jobs").peers()), module("peers").wrapped
    by_name = {job.name: job for job in jobs}
    plain, mixed = (
        by_name["onnxruntime · dynamic int8, fused"],
        by_name["onnxruntime · dynamic int8, fused, our batches"],
    )
    assert (plain.settings, plain.whose, mixed.whose) == (mixed.settings, "peer", "mixed")
    made = made_by_a_tool(tmp_path / "made")
    texts = [("a " * (1 + 7 * i % 24),) for i in range(64)]

    def sizes(job: Any, count: int) -> list[int]:
        predictor = Predictor(wrapped(made, job, checkpoint_folder()), threads=1)
        return [len(chosen) for chosen, _ in predictor.batches(predictor.encode(texts[:count]), 32)]

    assert sizes(plain, 32) == [32]
    assert sizes(plain, 64) == [32, 32]
    assert len(sizes(mixed, 32)) > 1


def test_a_peers_session_has_onnx_runtimes_own_settings() -> None:
    import onnxruntime

    config = engine.Config(**module("peer_tools.jobs").ONNXRUNTIME)
    options = Options(spinning=bool(config.spinning), arena=bool(config.arena))
    given = session_options(engine._opening(config), options, threads=0)
    plain = onnxruntime.SessionOptions()
    names = [name for name in dir(plain) if not name.startswith("_") and not callable(getattr(plain, name))]
    assert len(names) >= 10
    ours = {"log_severity_level", "inter_op_num_threads"}  # the latter plays no part in a sequential session
    assert {n: getattr(given, n) for n in names if n not in ours} == {
        n: getattr(plain, n) for n in names if n not in ours
    }
    assert given.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert engine._opening(config).disabled == ()
    assert (config.single_threads, config.streams) == (0, 1)


def test_a_peers_openvino_batch_stays_as_it_came() -> None:
    pytest.importorskip("openvino")
    from toolchain.engines.openvino import session

    jobs = [job for job in module("peer_tools.jobs").peers() if job.engine == "openvino"]
    assert len(jobs) >= 6
    for job in jobs:
        assert job.options["lengths"] == []
        assert job.options["split"] is False
        assert set(job.options) <= set(session.Plan.__dataclass_fields__)
        assert job.options["precision"] in job.name


def test_every_peer_has_a_script_an_environment_and_a_name_of_its_own() -> None:
    jobs = list(module("peer_tools.jobs").peers())
    pins = module("peer_tools.environments").PINS
    assert {job.tool for job in jobs} == set(pins) == {"onnxruntime", "optimum", "olive", "inc", "openvino"}
    assert all((ROOT / f"benchmarks/peer_tools/{job.tool}_tool.py").is_file() for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)
    assert [job.whose for job in jobs].count("reference") == 1
    assert all("==" in pin for pinned in pins.values() for pin in pinned)


def test_our_recipe_is_made_from_the_checkpoint_without_training(tmp_path: Path) -> None:
    jobs = module("peer_tools.jobs")
    found = list(jobs.ours(ROOT / "recipes/cpu-best.yaml", task_of(tmp_path, checkpoint_folder())))
    assert len(found) >= 3
    assert len({job.name for job in found}) == len(found)
    for job in found:
        recipe = json.loads(job.settings["recipe"])
        assert recipe["model"] == str(checkpoint_folder())
        assert not {"stages", "test", "baseline"} & set(recipe)
        assert (len(recipe["variants"]), len(recipe["engines"])) == (1, 1)


@pytest.mark.slow
def test_what_we_make_is_built_by_our_command_line_and_kept(tmp_path: Path) -> None:
    jobs, peers = module("peer_tools.jobs"), module("peers")
    recipe = {
        "name": "one", "model": str(checkpoint_folder()), "variants": {"base": ["export"]}, "engines": ["onnxruntime"],
        "task": {"reviews": {"train_size": 32, "dev_size": 16, "test_size": 24}},
    }  # fmt: skip
    job = jobs.Job("ours · base", "toolchain", {"recipe": json.dumps(recipe)}, "", {}, "ours")
    task = task_of(tmp_path, checkpoint_folder())
    made = peers._made(job, task, tmp_path / "cache", context(tmp_path / "work"))
    assert made["wall_s"] > 1
    assert made["peak_memory_bytes"] > 10**8
    assert made["size_bytes"] == (Path(made["folder"]) / "model.onnx").stat().st_size
    assert 0 <= made["accuracy"]["test"] <= 1
    stamp = (Path(made["folder"]) / "result.json").stat().st_mtime_ns
    assert peers._made(job, task, tmp_path / "cache", context(tmp_path / "work")) == made
    assert (Path(made["folder"]) / "result.json").stat().st_mtime_ns == stamp


def test_a_tool_that_cannot_be_installed_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, environments = module("peer_tools.jobs"), module("peer_tools.environments")
    monkeypatch.setitem(environments.PINS, "inc", [f"no-such-tool @ file://{tmp_path}/nowhere-1.0-py3-none-any.whl"])
    job = next(job for job in jobs.peers() if job.tool == "inc")
    task = task_of(tmp_path, checkpoint_folder())
    found = module("peers")._made(job, task, tmp_path / "cache", context(tmp_path / "work"))
    assert set(found) == {"error"}
    assert "the environment of inc cannot be made" in found["error"]
    with pytest.raises(ToolchainError, match="inc"):
        environments.python("inc", tmp_path / "cache/environments")


def test_a_checkpoint_of_another_tool_is_taken_in_once(tmp_path: Path) -> None:
    peers, theirs = module("peers"), tmp_path / "theirs"
    shutil.copytree(checkpoint_folder(), theirs)
    for name in ("interface.json", "history.json"):
        (theirs / name).unlink(missing_ok=True)
    assert peers._own(checkpoint_folder(), sentences(), tmp_path) == checkpoint_folder()
    taken = peers._own(theirs, sentences(), tmp_path)
    assert json.loads((taken / "interface.json").read_text())["labels"] == list(sentences().labels)
    stamp = (taken / "model.safetensors").stat().st_mtime_ns
    assert peers._own(theirs, sentences(), tmp_path) == taken
    assert (taken / "model.safetensors").stat().st_mtime_ns == stamp


def test_what_is_asked_for_again_is_made_once_more_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers, ran = module("peers"), []

    def tool(script: Path, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        ran.append(script.name)
        shutil.copyfile(onnx_folder() / "model.onnx", Path(request["out"]) / "model.onnx")
        return {"files": ["model.onnx"], "versions": {}, "peak_memory_bytes": 1}

    monkeypatch.setattr(peers.child, "run", tool)
    monkeypatch.setattr(peers.environments, "python", lambda tool, folder: "")
    task = task_of(tmp_path, checkpoint_folder())
    job = next(module("peer_tools.jobs").peers())
    for again, runs in ((None, 1), (None, 1), (set(), 2)):
        peers._tool_output(job, task, tmp_path / "cache", context(tmp_path / "work"), again)
        assert len(ran) == runs
    shared: set[Path] = set()
    for _ in range(2):  # two engines of one file
        peers._tool_output(job, task, tmp_path / "cache", context(tmp_path / "work"), shared)
    assert len(ran) == 3


FACTS = {"machine": {"cpu": "a processor", "physical_cores": 2}, "threads": 2}


def line(name: str, whose: str, test: float, **measured: Any) -> dict[str, Any]:
    return {
        "name": name, "tool": name.split(" ")[0], "whose": whose, "size_bytes": 25 * 10**6, "wall_s": 9.6,
        "peak_memory_bytes": 1_200_000_000, "accuracy": {"test": test, "dev": test + 0.01}, "folder": "/somewhere",
        **measured,
    }  # fmt: skip


def timing_of(batch_1_ms: list[float], in_order: list[float], in_data_order: list[float]) -> dict[str, Any]:
    def result(rounds: list[float], key: str) -> dict[str, Any]:
        return {"engine": {key: rounds, "spread": 0.01}}

    orders = {"sorted": result(in_order, "rounds_per_s"), "data_order": result(in_data_order, "rounds_per_s")}
    return {
        "peak_memory_bytes": 10**8,
        "settings": {"latency": result(batch_1_ms, "rounds_ms"), "throughput": {"32": orders}},
    }


def test_ratios_are_to_the_best_peer_that_keeps_its_accuracy_and_paired_by_round() -> None:
    engines = [
        line("fp32", "reference", 0.890), line("quick", "peer", 0.886), line("quickest", "peer", 0.884),
        line("quick, our batches", "mixed", 0.890), line("mine", "ours", 0.887), line("mine too", "ours", 0.870),
        {"name": "absent", "tool": "absent", "whose": "peer", "error": "no wheel\nmore"},
    ]  # fmt: skip
    timed = {
        "rounds": 3,
        "seconds": 30.0,
        "sample": 512,
        "samples": {},
        "order": [],
        "engines": {
            "fp32": timing_of([4, 4, 4], [300] * 3, [170] * 3),
            "quick": timing_of([2, 2.5, 2], [800] * 3, [400] * 3),
            "quickest": timing_of([1, 1, 1], [2000] * 3, [2000] * 3),
            "quick, our batches": timing_of([2, 2, 2], [900] * 3, [2000] * 3),
            "mine": timing_of([1.6, 2, 1.6], [1000, 1200, 1100], [900] * 3),
            "mine too": {"error": "it broke"},
        },
    }
    found = module("peer_tools.table").record(engines, {2: timed, 1: timed}, FACTS)
    lines = {item["name"]: item for item in found["engines"]}
    # 0.4 points below fp32 may be compared, 0.6 may not.
    assert [lines[name]["within"] for name in ("quick", "quickest", "mine")] == [True, False, True]
    assert lines["quickest"]["points"]["test"] == pytest.approx(-0.6)
    assert list(found["timed"]) == ["2", "1"]
    best = found["timed"]["2"]["best"]
    assert {item["peer"] for item in best.values()} == {"quick"}
    assert best["batch 1"]["ratio"] == pytest.approx(1.25)
    at_once = best["32, sorted"]
    assert (at_once["peer_per_s"], at_once["ours"], at_once["ours_per_s"]) == (800, "mine", 1100)
    # Ratios of the rounds are 1.25, 1.5 and 1.375; of three, the interval holds all.
    assert [at_once[key] for key in ("ratio", "low", "high")] == pytest.approx([1.375, 1.25, 1.5])
    assert best["32, unsorted"]["ratio"] == pytest.approx(900 / 400)
    assert {item["fastest_peer"]["peer"] for item in best.values()} == {"quickest"}
    assert best["32, unsorted"]["fastest_peer"]["ratio"] == pytest.approx(900 / 2000)
    assert best["32, unsorted"]["ratios"]["quick, our batches"]["ratio"] == pytest.approx(5)
    assert found["timed"]["2"]["errors"] == {"mine too": "it broke"}
    assert not any("folder" in item for item in found["engines"])

    text = module("peer_tools.table").markdown(found)
    assert text.count("| 32, sorted | quick | 800 | mine | 1,100 | **1.38** | 1.25 to 1.50 |") == 2
    assert "- 32, unsorted: a quicker peer, less accurate than is compared: quickest, 2,000; to it, ours 0.45" in text
    assert "| quickest ✗ | 1,000 | 2,000 | 2,000 | 100 |" in text
    assert "| quickest ✗ | 25.0 | 88.40 | -0.60 | 89.40 | -0.60 |" in text
    assert "- left out: absent: no wheel" in text
    assert "- not timed: mine too: it broke" in text
    assert "median of 3 interleaved rounds of 10 s each on 512 test sentences" in text
    assert text.index("## 2 threads") < text.index("## 1 thread\n")


def test_tables_without_timing_hold_accuracy_and_cost() -> None:
    engines = [line("fp32", "reference", 0.890), line("mine", "ours", 0.887)]
    table = module("peer_tools.table")
    found = table.record(engines, {}, FACTS)
    assert found["timed"] == {}
    assert "| **mine** | 25.0 | 88.70 | -0.30 | 89.70 | -0.30 | 10 | 1,200 |" in table.markdown(found)


def test_published_pages_say_what_the_figures_beside_them_say() -> None:
    table, agreement, shapes = module("peer_tools.table"), module("agreement"), module("shapes")
    pages: dict[str, tuple[str, Any]] = {
        "peers/peers.md": ("peers.json", table.markdown),
        "peers/summary.md": ("peers.json", table.summary),
        "shapes/shapes.md": ("shapes.json", shapes.page),
        "agreement/agreement.md": (
            "agreement.json", lambda cells: agreement.page([agreement.Cell(**cell) for cell in cells])
        ),
    }  # fmt: skip
    for name, (figures, page) in pages.items():
        published = ROOT / "artifacts/published" / name
        found = json.loads((published.parent / figures).read_text("utf-8"))
        assert published.read_text("utf-8") == page(found), name
