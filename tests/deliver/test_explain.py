"""One run with faults planted in three of its engines, told by ``run``, ``report`` and ``explain`` alike."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import Result, call, made_by, tiny
from toolchain.core import registry
from toolchain.core.store import Artifact, Store
from toolchain.deliver.report.figures import ASKED
from toolchain.measure.gates import GATES

#: A pass as a user may add one: it turns the classifier round, and so every label. AGREEMENT is filled in.
FAULT = '''
"""Turns the classifier round."""

from dataclasses import dataclass

from toolchain.core.stage import StageConfig
from toolchain.model import graph

VERSION = 1
LIBRARIES = ("onnx",)
TAKES = ("standard",)
GIVES = "standard"
AGREEMENT = {agreement}


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """No settings."""


def apply(source, out, config, context):
    import onnx

    model = graph.load(source / "model.onnx")
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    for dims in ([2, 32], [2]):
        *_, tensor = (weight for weight in floats if sorted(weight.dims) == dims)
        tensor.CopyFrom(onnx.numpy_helper.from_array(-1000 * onnx.numpy_helper.to_array(tensor), tensor.name))
    graph.save(model, out / "model.onnx")
    return {{}}
'''

RECIPE_CHANGES = (
    "variants={base: [export], broken: [export, clean, turned, dynamic_int8], int8: [export, static_int8]}",
    "engines=[onnxruntime, {onnxruntime: {as: unoptimized, optimization: disabled}}]",
)


@pytest.fixture(scope="module")
def faults() -> Iterator[None]:
    """The registry with two passes more: ``turned`` admits that it may differ, ``sworn`` claims to change nothing."""
    folder, names = Path(tempfile.mkdtemp()), registry.names
    for name, agreement in (("turned", 0.98), ("sworn", 1.0)):
        file = folder / f"{name}.py"
        file.write_text(FAULT.format(agreement=agreement), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"toolchain.optimize.{name}", file)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)

    @functools.cache
    def more(where: str) -> tuple[str, ...]:
        return (*names(where), "sworn", "turned") if where == "optimize" else names(where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "names", more)
        registry.get.cache_clear()
        yield
    registry.get.cache_clear()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def faulty(faults: None) -> tuple[Path, Result]:
    """Folder and result of the run; its fine-tuned model is that of the shared one."""
    root = Path(tempfile.mkdtemp(prefix="toolchain-explain-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    tiny().copy(root)
    return root, call("run", "tiny.yaml", *_sets(), "--store", "store", "--json", "-o", "out", cwd=root)


def _sets() -> list[str]:
    return [word for change in RECIPE_CHANGES for word in ("--set", change)]


def _explained(root: Path, *target: str) -> Any:
    return call("explain", *target, "--store", "store", "--json", cwd=root)


def _verdicts(item: Any) -> dict[str, dict[str, Any]]:
    return {verdict["gate"]: verdict for verdict in item["gates"]}


def _artifact(root: Path, kind: str, part: str) -> Artifact:
    found = [a for a in Store(root / "store").artifacts() if a.kind == kind and part in a.manifest["label"]]
    return found[0]


def test_the_broken_pass_is_named_with_its_node_and_those_behind_it_are_not(faulty: tuple[Path, Result]) -> None:
    root, result = faulty
    assert result.code == 0, result.stderr  # a rejected candidate is a result: others may be shipped
    assert "parity failed: " in result.stderr
    assert "gate missed" not in result.stderr
    line = next(line for line in result.json["lines"] if line["name"] == "broken/onnxruntime")
    parity = next(gate for gate in line["gates"] if gate["gate"] == "parity")
    head = next(a for a in Store(root / "store").artifacts() if a.kind == "onnx" and made_by(a) == "turned")
    assert parity["verdict"] == "failed"
    assert parity["evidence"].startswith(
        f"introduced by turned, first diverging node {head.metrics['parity']['first']}"
    )
    assert "Gemm" in head.metrics["parity"]["first"]
    assert "clean: 0 of " in parity["evidence"]
    assert "labels lost" in line["marks"]
    chosen = {item["name"] for item in result.json["recommendations"]}
    assert chosen
    assert not any("broken" in name for name in chosen)


@pytest.mark.parametrize("variant", ["[export, sworn]", "[export, bf16, sworn]"], ids=["first", "behind a lossy one"])
def test_a_pass_that_claims_to_change_nothing_and_does_is_not_published(
    variant: str, faulty: tuple[Path, Result]
) -> None:
    root, _ = faulty
    sworn = ["--set", f"variants={{base: [export], sworn: {variant}}}"]
    result = call("optimize", "tiny.yaml", *sworn, "--store", "store", cwd=root)
    assert result.code == 3
    assert "parity: sworn claims to change nothing; " in result.stderr
    assert "first diverging node: " in result.stderr
    assert "sworn" not in {made_by(a) for a in Store(root / "store").artifacts() if a.kind == "onnx"}


def test_where_nothing_sound_is_left_a_run_ends_with_3(faulty: tuple[Path, Result]) -> None:
    root, _ = faulty
    lost = ["--set", "variants={broken: [export, clean, turned, dynamic_int8]}"]
    result = call("run", "tiny.yaml", *lost, "--store", "store", "--json", "-o", "lost", cwd=root)
    assert result.code == 3, result.stderr
    assert result.json["recommendations"] == []
    assert call("explain", "lost", "--store", "store", cwd=root).code == 3


def test_a_pass_that_loses_labels_ends_its_own_command_with_3(faulty: tuple[Path, Result]) -> None:
    root, _ = faulty
    lost = ["--set", "variants={base: [export], broken: [export, clean, turned]}"]
    result = call("optimize", "tiny.yaml", *lost, "--store", "store", cwd=root)
    assert result.code == 3
    assert "rejected: broken · turned: parity failed: introduced by turned, first diverging node " in result.stderr


def test_int8_in_float_fails_placement_and_is_no_faster(faulty: tuple[Path, Result]) -> None:
    _, result = faulty
    line = next(line for line in result.json["lines"] if line["name"] == "int8/unoptimized")
    verdicts = _verdicts(line)
    assert verdicts["placement"]["verdict"] == "failed"
    assert "int8 products in integers: 0 of " in verdicts["placement"]["evidence"]
    assert verdicts["never slower"]["verdict"] == "failed"
    assert {"size only", "misplaced"} <= set(line["marks"])
    assert any(told.startswith("may not be shipped: misplaced: ") for told in line["standing"])
    assert line["rank"] is None


def test_every_gate_stands_in_every_report_and_what_was_not_run_says_why(faulty: tuple[Path, Result]) -> None:
    root, result = faulty
    assert len(result.json["lines"]) == 6
    names = ["parity", "fusion", "placement", "invariance", "never slower", "isa"]
    page = (root / "out" / "report.md").read_text()
    screen = call("report", "tiny.yaml", *_sets(), "--store", "store", "-v", cwd=root).stdout
    for line in result.json["lines"]:
        assert [gate["gate"] for gate in line["gates"]] == names
        for gate in line["gates"]:
            assert gate["verdict"] in ("passed", "failed", "not run")
            assert bool(gate["reason"]) == (gate["verdict"] == "not run")
            assert f"| {line['name']} | {gate['gate']} | " in page
    assert names == [*ASKED] == [*GATES]
    for name in names:
        assert f"gate {name}" in screen
        assert f"**gate {name}**" in page
        assert ASKED[name] in page
    base = _verdicts(next(line for line in result.json["lines"] if line["baseline"]))
    assert base["never slower"]["evidence"] == "not run: it is the baseline"
    assert base["isa"]["reason"] == "no int8 products"


def test_a_recipe_and_its_report_are_explained_alike(faulty: tuple[Path, Result]) -> None:
    root, result = faulty
    recipe = call("explain", "tiny.yaml", *_sets(), "--store", "store", "--json", cwd=root)
    folder = _explained(root, "out")
    file = _explained(root, "out/report.json")
    assert (recipe.code, folder.code, file.code) == (0, 0, 0)
    assert recipe.json["engines"] == folder.json["engines"] == file.json["engines"]
    assert [item["name"] for item in folder.json["engines"]] == [line["name"] for line in result.json["lines"]]
    text = call("explain", "out", "--store", "store", cwd=root).stdout
    for told in (
        "rank 1 of ",
        "may not be shipped: labels lost: ",
        "made by finetune → export → clean → turned → dynamic_int8",
        "optimization disabled",
        "attention 1 of 1",
        "introduced by turned",
    ):
        assert told in text


def test_a_standing_takes_the_score_apart(faulty: tuple[Path, Result]) -> None:
    _, result = faulty
    line = next(line for line in result.json["lines"] if line["baseline"])
    rank, *_ = line["standing"]
    ranked = sum(each["rank"] is not None for each in result.json["lines"])
    score, accuracy = f"{line['score']:.2f}", f"{line['accuracy_percent']:.2f}"
    tie = ", within noise of the one above" if line["tied_with_previous"] else ""
    parts = f"1·{accuracy} (accuracy) + 1·1.00 (times smaller) + 1·1.00 (times as fast at batch 1)"
    assert rank == f"rank {line['rank']} of {ranked}{tie}: score {score} = {parts}"


def test_an_engine_and_its_evaluation_are_explained_without_a_recipe(faulty: tuple[Path, Result]) -> None:
    root, _ = faulty
    evaluation = _artifact(root, "evaluation", "int8 · unoptimized")
    engine = next(key for key in evaluation.manifest["parents"] if Store(root / "store").find("engine", key))
    by_engine, by_evaluation = _explained(root, engine), _explained(root, evaluation.key)
    assert by_engine.json["engines"] == by_evaluation.json["engines"]
    (item,) = by_engine.json["engines"]
    assert (by_engine.code, item["chain"], item["settings"]["optimization"]) == (
        3,
        ["finetune", "export", "static_int8"],
        "disabled",
    )
    verdicts = _verdicts(item)
    assert verdicts["placement"]["verdict"] == "failed"
    assert "toolchain explain RECIPE" in verdicts["never slower"]["reason"]


def test_a_graph_is_explained_by_its_parity_alone(faulty: tuple[Path, Result]) -> None:
    root, _ = faulty
    turned = next(a for a in Store(root / "store").artifacts() if a.kind == "onnx" and made_by(a) == "turned")
    (item,) = _explained(root, turned.key).json["engines"]
    assert {verdict["gate"]: verdict["verdict"] for verdict in item["gates"]} == {
        "parity": "failed", "fusion": "not run", "placement": "not run", "invariance": "not run",
        "never slower": "not run", "isa": "not run",
    }  # fmt: skip


def test_gates_take_part_of_the_time_and_say_how_much(faulty: tuple[Path, Result]) -> None:
    root, _ = faulty
    evaluation = _artifact(root, "evaluation", "base · onnxruntime")
    seconds = evaluation.metrics["gate_seconds"]
    assert set(seconds) == {"parity", "invariance", "isa", "placement"}
    assert 0 < sum(seconds.values()) < evaluation.manifest["duration_s"]


@pytest.mark.parametrize("text", ["{}", "not json", '{"lines": [{"name": "x"}]}'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    result = call("explain", "report.json", "--store", "store", cwd=tmp_path)
    assert result.code == 1
    assert "report.json cannot be read as a report" in result.stderr
    assert "toolchain report RECIPE -o FOLDER" in result.stderr


def test_before_the_first_run_a_recipe_says_what_is_not_run(tmp_path: Path) -> None:
    shutil.copy(tiny().recipe, tmp_path)
    result = call("explain", "tiny.yaml", "--store", "store", cwd=tmp_path)
    assert result.code == 0
    assert (
        "not run yet: base/onnxruntime, dynamic-int8/onnxruntime: toolchain run tiny.yaml --store store"
        in result.stdout
    )
    assert json.loads(call("explain", "tiny.yaml", "--store", "store", "--json", cwd=tmp_path).stdout)["engines"] == []
