from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.builders import weights
from tests.deliver.test_report import lines_of, report, shown, three
from tests.tasks import test_certification as task
from toolchain.certainty.noninferiority import judge
from toolchain.certainty.ranks import Scored, resampled
from toolchain.certainty.statistics import Interval, design_effect, widened
from toolchain.deliver.certification import objection
from toolchain.deliver.report import markdown
from toolchain.pipeline import keys, plan, recipe
from toolchain.pipeline.document import Document
from toolchain.pipeline.run import Outcome


def outcome(folder: Path, model: str, variants: Mapping[str, object], split: str = "certification") -> Outcome:
    """A planned recipe on the certification split, of which nothing was run."""
    task.config(folder, 12)
    settings = {"folder": str(folder), "split": split, "certification_examples": 12}
    document = {"task": {"sst2": settings}, "model": model, "variants": dict(variants)}
    made = plan.make(recipe.parse(Document(document, None)), "evaluate")
    return Outcome(made, keys.Task(made.recipe))


def checkpoint(folder: Path, parts: dict[str, object] | None) -> str:
    """A model folder; with the manifest of a store's checkpoint where it came out of one."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}')
    weights(folder / "model.safetensors")
    (folder / "tokenizer.json").write_text("{}")
    if parts is not None:
        bare = {"key": "0" * 32, "kind": "checkpoint", "files": {}, "parents": [], "metrics": {}}
        (folder / "manifest.json").write_text(json.dumps(bare | {"parts": parts}))
    return str(folder)


def test_what_the_recipe_trains_on_the_split_is_certified(tmp_path: Path) -> None:
    run = outcome(tmp_path, "scratch:bert-1x32", {"base": ["finetune", "export"]})
    assert [objection(run, row.build) for row in run.plan.rows] == [""]


def test_without_the_split_nothing_is_said(tmp_path: Path) -> None:
    run = outcome(tmp_path, "scratch:bert-1x32", {"base": ["finetune", "export"]}, split="given")
    assert [objection(run, row.build) for row in run.plan.rows] == [None]


def test_a_checkpoint_from_elsewhere_is_certified_only_if_it_was_trained_on_the_split(tmp_path: Path) -> None:
    identity = outcome(tmp_path, "scratch:bert-1x32", {"base": ["finetune", "export"]}).task.identity
    same = checkpoint(tmp_path / "same", {"stage": "finetune", "task": identity})
    other = checkpoint(tmp_path / "other", {"stage": "finetune", "task": {**identity, "data": {}}})
    unknown = checkpoint(tmp_path / "unknown", None)
    variants = {
        name: [{"adopt": {"path": path}}, "export"] for name, path in zip("abc", (same, other, unknown), strict=True)
    }
    run = outcome(tmp_path, "scratch:bert-1x32", variants)
    assert [objection(run, row.build) for row in run.plan.rows] == [
        "",
        f"{other} was trained on other data",
        f"{unknown} does not say what it was trained on",
    ]


def test_a_student_of_a_teacher_from_elsewhere_is_not_certified(tmp_path: Path) -> None:
    teacher = checkpoint(tmp_path / "teacher", None)
    variants = {"student": ["finetune", {"distill": {"teacher": teacher}}, "export"]}
    run = outcome(tmp_path, "scratch:bert-2x32", variants)
    assert [objection(run, row.build) for row in run.plan.rows] == [f"{teacher} does not say what it was trained on"]


def test_the_report_marks_what_is_not_certified(tmp_path: Path) -> None:
    rows = three(tmp_path)
    rows[1] = type(rows[1])(**{**vars(rows[1]), "objection": "x was trained on other data"})
    rows[2] = type(rows[2])(**{**vars(rows[2]), "objection": ""})
    found = report(rows)
    assert [lines_of(found)[f"{name}/ort"]["certified"] for name in ("zeros", "int8", "base")] == [None, False, True]
    assert "int8/ort: x was trained on other data" in markdown(found)
    assert "its accuracy is not certified" in shown(found, 160)


def test_examples_that_hang_together_widen_every_interval() -> None:
    # Ten copies of each example: ten times the variance, and the interval is the root of that wider.
    rng = np.random.default_rng(6)
    single = (rng.random(300) < 0.1) * -1.0
    many, groups = np.repeat(single, 10), np.repeat(np.arange(300), 10)
    assert design_effect(many, groups) == pytest.approx(10, rel=0.01)
    assert design_effect(many, None) == design_effect(np.zeros(9), np.arange(9)) == 1
    wide = widened(Interval(-0.1, -0.12, -0.07), many, groups)
    assert [wide.low, wide.high] == pytest.approx([-0.1 - 0.02 * 10**0.5, -0.1 + 0.03 * 10**0.5], abs=5e-4)
    base = np.ones(3000, dtype=bool)
    variant = np.repeat(np.arange(300) >= 2, 10)
    assert judge(base, variant, 0.012).answer == "yes"
    assert judge(base, variant, 0.012, groups).answer == "cannot say"
    engines = [Scored(base, 1.0, np.ones(5)), Scored(many == 0, 1.0, np.ones(5))]
    apart = [np.std(resampled(engines, (1.0, 1.0, 1.0), of)[:, 1]) for of in (None, groups)]
    assert apart[1] / apart[0] == pytest.approx(10**0.5, rel=0.1)


def test_groups_of_an_evaluation_reach_the_report(tmp_path: Path) -> None:
    rows = three(tmp_path)
    before = lines_of(report(rows))["int8/ort"]
    for each in rows:
        path = each.evaluation / "evaluation.json"
        record = json.loads(path.read_text("utf-8"))
        # The examples that int8 alone has wrong are of one group.
        record["groups"] = {"test": [number // 5 for number in range(200)]}
        path.write_text(json.dumps(record))
    after = lines_of(report(rows))["int8/ort"]
    assert "95 % Wilson interval, widened for examples that hang together" in markdown(report(rows))
    assert after["accuracy_change_points_low"] < before["accuracy_change_points_low"] - 1
    assert after["accuracy_percent_low"] < before["accuracy_percent_low"]
    assert after["rank_high"] >= before["rank_high"]
