"""Regression: one number for each text, and the whole pipeline on it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

import toolchain
from tests.builders import classifier_folder, context
from toolchain import kinds
from toolchain.core.errors import RecipeError
from toolchain.deliver.layers import tables
from toolchain.kinds.shared.prediction import Prediction
from toolchain.layers import sensitivity, sensitivity_file
from toolchain.pipeline.recipe import load
from toolchain.runtime.predictor import Predictor

KIND = kinds.get("regression")


def drawn(count: int, seed: int = 0) -> Any:
    """Scores and gold ones with many equal values, ``[examples, 2]``."""
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 6, count)
    return np.column_stack([np.round(gold + generator.normal(size=count), 1), gold]).astype(np.float64)


def test_the_metric_is_spearmans_rank_correlation() -> None:
    scores = drawn(200)
    assert KIND.combine(scores) == pytest.approx(scipy.stats.spearmanr(*scores.T).statistic)
    assert KIND.score(np.array([[0.5], [2.0]], np.float32), [1, 3]).tolist() == [[0.5, 1.0], [2.0, 3.0]]
    assert KIND.combine(np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])) == 0.0  # a constant says nothing


def test_resamples_are_ranked_as_if_each_were_sorted_anew() -> None:
    scores = drawn(60)
    counts = np.stack([np.bincount(row, minlength=60) for row in np.random.default_rng(1).integers(0, 60, (20, 60))])
    expected = [scipy.stats.spearmanr(*np.repeat(scores, row, axis=0).T).statistic for row in counts]
    assert KIND.resampled(scores, counts) == pytest.approx(expected)


def test_a_score_differs_where_it_moves_by_a_tenth_of_the_spread() -> None:
    expected = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)  # spread √1.25 = 1.118
    agreement = KIND.agree(expected, expected + np.array([[0.0], [0.11], [-0.12], [0.5]], np.float32), decided=1e-2)
    assert agreement.differs.tolist() == [False, False, True, True]
    assert not agreement.undecided.any()
    assert agreement.distance.tolist() == pytest.approx([0, 0.11, 0.12, 0.5], abs=1e-6)
    assert KIND.margin(expected).tolist() == pytest.approx([0.1118] * 4, abs=1e-4)
    assert KIND.margin(expected[:1]).tolist() == [math.inf]


def test_losses_are_squared_errors() -> None:
    outputs = {"logits": torch.tensor([[1.0], [2.0]])}
    batch = {"labels": torch.tensor([1.5, 4.0])}
    assert float(KIND.loss(outputs, batch)) == pytest.approx((0.25 + 4) / 2)
    assert float(KIND.loss(outputs, batch, reduction="sum")) == pytest.approx(4.25)
    assert float(KIND.soft_loss(outputs, torch.tensor([[0.0], [2.0]]), batch, 2.0)) == pytest.approx(0.5)
    assert KIND.losses(np.array([[1.0], [2.0]]), [1.5, 4.0]).tolist() == [0.25, 4.0]
    assert KIND.divergence(np.array([[1.0]]), np.array([[3.0]])).tolist() == [4.0]
    assert KIND.blend([np.array([[1.0]]), np.array([[2.0]])], 1.0).tolist() == [[1.5]]
    assert KIND.decode(np.array([[2.5]]), ["score"]) == [Prediction("score", 1.0, 2.5)]


@pytest.mark.parametrize(
    ("cell", "problem"), [("high", "a number is expected"), ("nan", "a finite number"), ("", "a number")]
)
def test_a_gold_score_is_a_finite_number(cell: str, problem: str) -> None:
    assert KIND.read_gold(" 3.25 ") == 3.25
    assert KIND.read_gold(4) == 4.0
    with pytest.raises(ValueError, match=problem):
        KIND.read_gold(cell)


GOOD, BAD = ("fine", "bright", "warm", "funny"), ("dull", "slow", "loud", "grey")


def written(folder: Path, **counts: int) -> dict[str, str]:
    """TSV files of texts and a number: half of how many more good words than bad ones they have."""
    generator, paths = random.Random(7), {}
    for name, count in counts.items():
        rows = ["text\tscore"]
        for _ in range(count):
            words = [generator.choice((*GOOD, *BAD)) for _ in range(generator.randint(2, 9))]
            rows.append(f"{' '.join(words)}\t{sum((word in GOOD) - (word in BAD) for word in words) / 2}")
        paths[name] = str(folder / f"{name}.tsv")
        Path(paths[name]).write_text("\n".join(rows) + "\n", "utf-8")
    return paths


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regression")
    files = written(folder, train=300, dev=48, test=64)
    document = {
        "task": {"files": files, "text": "text", "label": "score", "kind": "regression"},
        "model": "scratch:bert-2x64",
        "stages": [{"finetune": {"epochs": 4, "learning_rate": 3e-3}}],
        "variants": {
            "base": ["export"],
            "int8": ["export", {"static_int8": {"calibration": "min_max", "calibration_samples": 16}}],
        },
        "engines": [{"onnxruntime": {"tune": False}}, {"openvino": {"tune": False}}],
        "benchmark": {"batch_sizes": [1], "seconds": 0.05, "rounds": 3, "sample": 8},
        "check": [{"accuracy": 20, "confident": False, "gates": ["parity", "invariance"]}],
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(document), "utf-8")
    return path


@pytest.fixture(scope="module")
def report(recipe: Path) -> toolchain.Report:
    return toolchain.run(recipe, store=recipe.parent / "store", output=recipe.parent / "report")


@pytest.mark.slow
def test_the_pipeline_trains_quantizes_judges_and_reports_a_model_of_scores(
    report: toolchain.Report, recipe: Path
) -> None:
    told = json.loads((recipe.parent / "report/report.json").read_text())
    assert told["metric"] == {"name": "Spearman correlation", "unit": "", "binary": False}
    lines = {line["name"]: line for line in told["lines"]}
    assert set(lines) == {
        f"{variant}/{engine}" for variant in ("base", "int8") for engine in ("onnxruntime", "openvino")
    }
    for line in lines.values():
        assert line["gate_parity"] == line["gate_invariance"] == "passed", line
        assert 20 < line["accuracy_percent_low"] <= line["accuracy_percent"] <= line["accuracy_percent_high"] <= 100
        assert line["mcnemar_p"] is line["examples_lost"] is None
    int8 = lines["int8/onnxruntime"]
    assert int8["accuracy_change_points_low"] <= int8["accuracy_change_points"] <= int8["accuracy_change_points_high"]
    assert int8["not_worse"] in ("yes", "no", "cannot say")
    text = (recipe.parent / "report/report.md").read_text("utf-8")
    assert "Spearman correlation against the baseline" in text
    assert "95 % interval by the paired bootstrap" in text
    assert "McNemar" not in text
    page = (recipe.parent / "report/report.html").read_text("utf-8")
    assert "Spearman correlation on 64 test examples" in page
    assert "accuracy %" not in page


@pytest.mark.slow
def test_an_evaluation_keeps_scores_of_examples_and_gates_name_them(report: toolchain.Report) -> None:
    line = next(line for line in report.lines if line.name == "int8/openvino")
    evidence = {verdict.gate: verdict.evidence for verdict in line.gates}
    assert "scores differ" in evidence["parity"]
    assert "score flips 0" in evidence["invariance"]
    record = line.evaluation
    assert record["kind"] == "regression"
    assert record["splits"]["test"]["score"] == pytest.approx(KIND.combine(np.array(record["scores"]["test"])))
    assert [gold for _, gold in record["scores"]["test"]] == record["labels"]["test"]


def load_with(recipe: Path, **changes: Any) -> Any:
    """The recipe with other parts, read again."""
    path = recipe.with_name("changed.yaml")
    path.write_text(json.dumps(json.loads(recipe.read_text("utf-8")) | changes), "utf-8")
    return load(path)


@pytest.mark.slow
def test_a_model_of_scores_is_taken_in_for_scores_and_refused_for_labels(
    recipe: Path, report: toolchain.Report
) -> None:
    (checkpoint,) = (path.parent for path in (recipe.parent / "store/checkpoint").glob("*/config.json"))

    def adopting(folder: Path, **changes: Any) -> Any:
        variants = {"base": [{"adopt": {"path": str(folder)}}, "export"]}
        return load_with(recipe, **{"stages": [], "variants": variants, "check": [], **changes})

    assert adopting(checkpoint)
    with pytest.raises(RecipeError, match=r"is a model for regression .*; only single-label classification is served"):
        adopting(checkpoint, task="reviews")
    with pytest.raises(RecipeError, match=r"is a model for single-label classification .*; only regression is served"):
        adopting(classifier_folder())


@pytest.mark.slow
def test_layers_are_judged_by_the_rank_correlation(recipe: Path, report: toolchain.Report, tmp_path: Path) -> None:
    (checkpoint,) = (path.parent for path in (recipe.parent / "store/checkpoint").glob("*/config.json"))
    task = load(recipe).task
    data = task.technique.module.load(task.config)
    tried = sensitivity.Config(heads=(), ffn=(), rank=(), sparsity=(), bits=(2,))
    found = sensitivity.measure(
        checkpoint, tmp_path, tried, context(tmp_path / "work", data), {"checkpoint": None, "task": {"files": {}}}
    )
    assert found["accuracy"] > 0.8
    record = sensitivity_file.read(tmp_path / "sensitivity.json")
    assert record["kind"] == "regression"
    assert all(-1 <= row["accuracy"] < found["accuracy"] + 0.1 for row in record["rows"])
    first, *_ = tables(record)
    assert "dense: dev Spearman correlation" in str(first)


@pytest.mark.slow
def test_what_a_model_of_scores_answers_is_a_number(recipe: Path, report: toolchain.Report) -> None:
    engine = next(path for path in (recipe.parent / "store/engine").iterdir() if (path / "engine.json").is_file())
    good, bad = Predictor(engine, 1).predict(["fine warm funny", "dull slow grey"])
    assert good.label == bad.label == "score"
    assert (good.score or 0) > 0 > (bad.score or 0)


def test_augmentations_of_labels_are_refused(recipe: Path) -> None:
    stages = ["neighbours", {"finetune": {"epochs": 1}}]
    with pytest.raises(RecipeError, match="neighbours makes texts that keep one label; a task of the kind regression"):
        load_with(recipe, stages=stages)
