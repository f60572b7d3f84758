"""Reports of a metric that is no share of right labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.deliver.test_report import report, row, shown, three, timing
from toolchain import kinds
from toolchain.core.errors import StoreError
from toolchain.deliver.report import to_json
from toolchain.deliver.report.compare import compare
from toolchain.deliver.report.compare_text import markdown as compared
from toolchain.deliver.report.footnotes import footnotes
from toolchain.deliver.report.line import Row
from toolchain.deliver.report.page.document import html
from toolchain.deliver.report.tables import markdown
from toolchain.pipeline.limits import Limits

KIND = kinds.get("regression")
EXAMPLES = 400


def scored(rows: Sequence[Row], noises: Sequence[float], changes: dict[str, Any] | None = None) -> list[Row]:
    """The same rows, as evaluations of scores: the gold ones with so much noise."""
    gold = np.random.default_rng(0).integers(0, 26, EXAMPLES) / 5
    for each, noise in zip(rows, noises, strict=True):
        own = np.random.default_rng(1).normal(size=EXAMPLES) + 0.02 * np.random.default_rng(2).normal(size=EXAMPLES)
        answers = (gold + noise * own)[:, None].astype(np.float32)
        scores = KIND.score(answers, gold)
        np.save(each.evaluation / "probabilities_test.npy", answers)
        path = each.evaluation / "evaluation.json"
        record = json.loads(path.read_text()) | {
            "kind": "regression", "labels": {"test": gold.tolist()}, "scores": {"test": scores.tolist()},
            "splits": {"test": {"examples": EXAMPLES, "score": KIND.combine(scores)}},
        }  # fmt: skip
        path.write_text(json.dumps(record | (changes or {})))
    return list(rows)


def test_engines_are_judged_by_the_metric_of_their_kind_in_every_rendering(tmp_path: Path) -> None:
    # zeros, int8, base: noise of 3, 1.1 and 1 on gold scores of spread 1.5
    found = report(scored(three(tmp_path), (3.0, 1.1, 1.0)))
    told = to_json(found)
    assert told["metric"] == {"name": "Spearman correlation", "unit": "", "binary": False}
    lines = {line["name"]: line for line in told["lines"]}
    base, int8, zeros = (lines[f"{name}/ort"] for name in ("base", "int8", "zeros"))
    assert 75 < base["accuracy_percent_low"] < base["accuracy_percent"] < base["accuracy_percent_high"] < 95
    assert int8["accuracy_change_points_high"] < 0  # a little worse, and surely: both are drawn together
    assert int8["accuracy_change_points"] == pytest.approx(int8["accuracy_percent"] - base["accuracy_percent"])
    assert (int8["not_worse_low"], int8["not_worse_high"]) == (
        int8["accuracy_change_points_low"], int8["accuracy_change_points_high"]
    )  # fmt: skip
    assert zeros["not_worse"] == "no"
    assert zeros["label_flips"] > int8["label_flips"]
    assert base["mcnemar_p"] is int8["mcnemar_p_holm"] is int8["examples_lost"] is None
    texts = markdown(found), shown(found, 160), html(told), compared(compare([told], ["run"]))
    assert all("Spearman correlation" in text or "Spearman\ncorrelation" in text for text in texts)
    assert not any("ccuracy %" in text or "McNemar" in text for text in texts)


def test_limits_and_the_rule_name_the_metric(tmp_path: Path) -> None:
    found = report(scored(three(tmp_path), (3.0, 1.1, 1.0)), limits=Limits())
    reason = next(line.barred[0] for line in found.lines if line.name == "zeros/ort")
    assert reason.startswith("accuracy too low: Spearman correlation ")
    assert to_json(found)["rule"] == "at least 99 % of the best baseline's Spearman correlation, as measured"


def test_a_failed_parity_gate_speaks_of_answers_where_there_are_no_labels(tmp_path: Path) -> None:
    lost = {"passed": False, "examples": 10, "flips": 9, "ties": 0, "max_difference": 1.0, "non_finite": 0}
    rows = scored(three(tmp_path), (1.1, 1.1, 1.0), {"parity": lost | {"answers": ["score", "scores"]}})
    line = next(line for line in report(rows).lines if line.name == "int8/ort")
    assert "answers lost" in line.marks
    assert line.barred[0].startswith("answers lost: ")
    assert "answers lost" in dict(footnotes(report(rows)))


def test_seeds_are_pooled_by_what_each_example_contributes(tmp_path: Path) -> None:
    rows = scored(three(tmp_path), (3.0, 1.1, 1.0))
    again = [
        row(tmp_path, name, (), size, timing([10, 10.2, 9.8, 10], [100] * 4), seed=18, baseline=name == "base")
        for name, size in (("int8", 25), ("base", 100))
    ]
    found = report([*rows, *scored(again, (1.1, 1.0))])
    int8 = next(engine for engine in found.pooled if engine.name == "int8/ort")
    changes = [line.difference for line in found.lines if line.name.startswith("int8") and line.difference]
    assert int8.difference is not None
    assert int8.difference.estimate == pytest.approx(np.mean([each.estimate for each in changes]), abs=1e-3)
    assert int8.difference.low < int8.difference.estimate < int8.difference.high < 0


def test_an_evaluation_whose_scores_are_not_what_it_states_is_refused(tmp_path: Path) -> None:
    rows = scored(three(tmp_path), (3.0, 1.1, 1.0), {"splits": {"test": {"examples": EXAMPLES, "score": 0.99}}})
    with pytest.raises(StoreError, match=r"its test answers do not give the Spearman correlation of 0\.99"):
        report(rows)


def test_an_evaluation_whose_answers_have_another_shape_is_refused(tmp_path: Path) -> None:
    rows = scored(three(tmp_path), (3.0, 1.1, 1.0))
    np.save(rows[0].evaluation / "probabilities_test.npy", np.zeros(EXAMPLES, np.float32))
    with pytest.raises(StoreError, match="contradicts itself"):
        report(rows)


def test_engines_of_two_kinds_are_not_ranked_together(tmp_path: Path) -> None:
    rows = three(tmp_path)
    other = scored([row(tmp_path, "other", (), 10, timing([1] * 4, [9] * 4))], (1.0,))
    with pytest.raises(StoreError, match="several kinds of task cannot be ranked together: classification, regression"):
        report([*rows, replace(other[0], model="albert", baseline=True)])
