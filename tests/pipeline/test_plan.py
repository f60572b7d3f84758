from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.builders import engine_folder
from toolchain.core.errors import RecipeError
from toolchain.pipeline import plan as plans
from toolchain.pipeline import recipe as recipes
from toolchain.pipeline.plan import Plan

BASE = """\
model: scratch:bert-1x32
stages: [finetune]
variants:
  base: [export]
  dynamic: [export, dynamic_int8]
  static: [export, static_int8]
"""


def _plan(tmp_path: Path, text: str, until: str = "time") -> Plan:
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    return plans.make(recipes.load(tmp_path / "r.yaml"), until)


def _count(plan: Plan) -> dict[str, int]:
    return dict(Counter(step.stage for step in plan.steps.values()))


def test_shared_prefixes_are_one_step(tmp_path: Path) -> None:
    assert _count(_plan(tmp_path, BASE)) == {
        "finetune": 1, "export": 1, "optimize": 2, "build": 3, "evaluate": 3, "time": 1,
    }  # fmt: skip


def test_every_step_stands_after_its_inputs(tmp_path: Path) -> None:
    plan = _plan(tmp_path, BASE + "engines: [pytorch, onnxruntime]\nseeds: [1, 2]\n")
    seen: set[str] = set()
    for step in plan.steps.values():
        assert set(step.inputs) <= seen
        seen.add(step.id)
    assert plan.steps[plan.time].inputs == tuple(dict.fromkeys(row.build for row in plan.rows))


def test_equal_variants_are_built_and_measured_once(tmp_path: Path) -> None:
    plan = _plan(tmp_path, BASE + "  again: [{export: {opset: 20}}, {dynamic_int8: {per_channel: true}}]\n")
    rows = {row.variant: row.build for row in plan.rows}
    assert rows["again"] == rows["dynamic"]
    assert _count(plan)["build"] == 3


def test_a_part_of_a_recipe_comes_with_its_baseline_and_with_the_teachers_of_other_models(tmp_path: Path) -> None:
    text = """\
models: {one: scratch:bert-2x32, two: scratch:albert-2x32}
stages: [finetune]
variants:
  base: [export]
  half: [{distill: {layers: 1}}, export]
  taught: [{distill: {teacher: one.finetune}}, export]
"""
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    recipe = recipes.load(tmp_path / "r.yaml")

    def rows(*only: str) -> list[str]:
        return [f"{row.model}/{row.variant}" for row in plans.make(recipe, only=only).rows]

    assert rows("two/taught") == ["two/base", "two/taught"]
    assert rows("half") == ["one/base", "two/base", "one/half", "two/half"]
    assert rows("base", "one/half") == ["one/base", "two/base", "one/half"]
    assert rows() == rows("base", "half", "taught")
    trained = [
        step.source for step in plans.make(recipe, only=["two/taught"]).steps.values() if step.stage == "finetune"
    ]
    assert trained == ["scratch:albert-2x32", "scratch:bert-2x32"]
    with pytest.raises(RecipeError, match="no variant is called 'hlaf'") as caught:
        rows("half", "hlaf")
    assert "did you mean 'half'" in caught.value.hint


def test_one_setting_parts_what_depends_on_it(tmp_path: Path) -> None:
    plan = _plan(tmp_path, BASE + "  old: [{export: {opset: 19}}, dynamic_int8]\n")
    assert _count(plan) == {"finetune": 1, "export": 2, "optimize": 3, "build": 4, "evaluate": 4, "time": 1}


def test_pairs_that_cannot_meet_are_marked_with_the_reason(tmp_path: Path) -> None:
    plan = _plan(tmp_path, BASE + "engines: [onnxruntime, pytorch]\n")
    assert [row.name for row in plan.rows] == [
        "base/onnxruntime", "base/pytorch", "dynamic/onnxruntime", "static/onnxruntime",
    ]  # fmt: skip
    assert plan.not_applicable == [
        ("dynamic/pytorch", "dynamic_int8 works on the ONNX graph, and pytorch runs the checkpoint"),
        ("static/pytorch", "static_int8 works on the ONNX graph, and pytorch runs the checkpoint"),
    ]


def test_a_dialect_that_an_engine_does_not_take_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolchain.engines import onnxruntime

    monkeypatch.setattr(onnxruntime, "ACCEPTS", ("standard", "qdq"))
    plan = _plan(tmp_path, BASE)
    assert plan.not_applicable == [
        ("dynamic/onnxruntime", "the graph is of dialect ort, and onnxruntime takes standard, qdq")
    ]
    assert [row.variant for row in plan.rows] == ["base", "static"]


def test_seeds_multiply_only_what_depends_on_them(tmp_path: Path) -> None:
    trained = _count(_plan(tmp_path, BASE + "seeds: [1, 2, 3]\n"))
    assert trained == {"finetune": 3, "export": 3, "optimize": 6, "build": 9, "evaluate": 9, "time": 1}
    # Without training, a checkpoint is what it is; only the passes draw samples.
    held = _count(_plan(tmp_path, BASE.replace("stages: [finetune]\n", "") + "seeds: [1, 2, 3]\n"))
    assert held == {"adopt": 1, "export": 1, "optimize": 6, "build": 7, "evaluate": 7, "time": 1}


def test_models_multiply_everything_and_are_timed_together(tmp_path: Path) -> None:
    two = BASE.replace("model: scratch:bert-1x32", "models: {a: scratch:bert-1x32, b: scratch:bert-1x64}")
    plan = _plan(tmp_path, two)
    assert _count(plan) == {"finetune": 2, "export": 2, "optimize": 4, "build": 6, "evaluate": 6, "time": 1}
    assert [row.name for row in plan.rows if row.baseline] == ["a/base/onnxruntime", "b/base/onnxruntime"]


def test_two_names_of_one_model_are_done_once(tmp_path: Path) -> None:
    same = BASE.replace("model: scratch:bert-1x32", "models: {a: scratch:bert-1x32, b: scratch:bert-1x32}")
    plan = _plan(tmp_path, same)
    assert (_count(plan)["finetune"], _count(plan)["build"], len(plan.rows)) == (1, 3, 6)


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("finetune", {"finetune": 1}),
        ("export", {"finetune": 1, "export": 1}),
        ("optimize", {"finetune": 1, "export": 1, "optimize": 2}),
        ("build", {"finetune": 1, "export": 1, "optimize": 2, "build": 3}),
    ],
)
def test_a_plan_may_end_at_a_stage(tmp_path: Path, until: str, expected: dict[str, int]) -> None:
    assert _count(_plan(tmp_path, BASE, until)) == expected


def test_techniques_of_a_row_are_in_order(tmp_path: Path) -> None:
    rows = {row.variant: row.techniques for row in _plan(tmp_path, BASE).rows}
    assert rows["static"] == ("finetune", "export", "static_int8")


def test_an_engine_that_cannot_run_here_is_built_and_neither_evaluated_nor_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolchain.engines import tensorrt

    text = BASE + "engines: [onnxruntime, tensorrt]\nbenchmark: {batch_sizes: [1, 8]}\n"
    monkeypatch.setattr(tensorrt, "absent", lambda config: "no NVIDIA driver")
    plan = _plan(tmp_path, text)
    assert [(row.name, why) for row, why in plan.not_run] == [
        ("base/tensorrt", "no NVIDIA driver"), ("static/tensorrt", "no NVIDIA driver"),
    ]  # fmt: skip
    assert [row.name for row in plan.rows] == ["base/onnxruntime", "dynamic/onnxruntime", "static/onnxruntime"]
    assert _count(plan) == {"finetune": 1, "export": 1, "optimize": 2, "build": 5, "evaluate": 3, "time": 1}
    built = [plan.steps[row.build] for row, _ in plan.not_run]
    assert {step.id for step in built}.isdisjoint(plan.steps[plan.time].inputs)
    assert {step.config.batch_sizes for step in built} == {(1, 8)}  # the recipe's
    assert {plan.steps[row.build].config.batch_sizes for row in plan.rows} == {()}  # which are nothing to a processor
    monkeypatch.setattr(tensorrt, "absent", lambda config: "")
    assert [len(found) for found in (_plan(tmp_path, text).rows, _plan(tmp_path, text).not_run)] == [5, 0]


def test_what_came_as_an_engine_is_one_row_under_its_own_name(tmp_path: Path) -> None:
    for name in ("pytorch", "openvino"):
        engine_folder(tmp_path / name, name)
    plan = _plan(
        tmp_path,
        "variants:\n  a: [{adopt: {path: openvino}}]\n"  # beside the recipe
        "  b: [{adopt: {path: pytorch}}]\nengines: [onnxruntime, pytorch]\n",
    )
    assert [(row.name, row.baseline) for row in plan.rows] == [("a/openvino", True), ("b/pytorch", False)]
    assert _count(plan) == {"adopt": 2, "evaluate": 2, "time": 1}


def test_the_provider_of_what_came_as_an_engine_is_its_own(tmp_path: Path) -> None:
    path = engine_folder(tmp_path / "engine", tune=False) / "engine.json"
    record = json.loads(path.read_text("utf-8"))
    record["options"]["provider"] = "cuda"
    path.write_text(json.dumps(record), encoding="utf-8")
    text = f"variants: {{a: [{{adopt: {{path: {path.parent}}}}}]}}\nengines: [onnxruntime]\n"
    assert [row.provider for row in _plan(tmp_path, text).rows] == ["CUDAExecutionProvider"]
    record["options"]["provider"] = ["cuda"]  # which opening it refuses
    path.write_text(json.dumps(record), encoding="utf-8")
    assert [row.provider for row in _plan(tmp_path, text).rows] == ["CPUExecutionProvider"]


def test_baseline_and_bounds_call_what_came_as_an_engine_as_the_table_does(tmp_path: Path) -> None:
    engine_folder(tmp_path / "given", "pytorch")
    text = (
        "model: scratch:bert-1x32\nvariants:\n"
        f"  a: [finetune, export]\n  given: [{{adopt: {{path: {tmp_path / 'given'}}}}}]\n"
        "baseline: {variant: given, engine: NAME}\ncheck: {engines: [given/NAME], size_mb: 1}\n"
    )
    rows = _plan(tmp_path, text.replace("NAME", "pytorch")).rows
    assert [row.name for row in rows if row.baseline] == ["given/pytorch"]
    with pytest.raises(RecipeError) as caught:
        _plan(tmp_path, text.replace("NAME", "onnxruntime"))
    assert "no engine is called 'onnxruntime' (known: pytorch)" in str(caught.value)
    assert "no variant or engine fits 'given/onnxruntime'" in str(caught.value)


def test_an_engine_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "engine.json").write_text('{"engine": "npu", "files": ["engine.json"], "options": {}}')
    with pytest.raises(RecipeError, match=r"r\.yaml:1:.*engine is of an unknown engine 'npu'"):
        _plan(tmp_path, f"variants: {{a: [{{adopt: {{path: {tmp_path / 'engine'}}}}}]}}\nengines: [onnxruntime]\n")
