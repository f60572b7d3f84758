"""Several labels of each text, each on its own, and the whole pipeline on it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toolchain
from tests.builders import classifier_folder
from toolchain import kinds
from toolchain.core.errors import DataError, ModelError, RecipeError
from toolchain.kinds.shared.prediction import Prediction
from toolchain.pipeline.recipe import load
from toolchain.runtime.predictor import Predictor
from toolchain.tasks import files

KIND = kinds.get("multi_label")
LOGITS = np.array([[2.0, -1.0, 0.5], [-3.0, -0.1, -2.0]], np.float32)
GOLD = [(1, 1, 0), (0, 0, 0)]


def test_the_metric_is_the_f1_of_all_labels_counted_together() -> None:
    scores = KIND.score(LOGITS, GOLD)
    assert scores.tolist() == [[1, 1, 1], [0, 0, 0]]  # true positives, false positives, false negatives
    assert KIND.combine(scores) == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert KIND.combine(scores[1:]) == 0.0  # scikit-learn's answer too, where there is nothing to find
    assert KIND.resampled(scores, np.array([[2, 0], [0, 3]])).tolist() == [0.5, 0.0]
    probabilities = KIND.activate(LOGITS)
    assert KIND.score(KIND.deactivate(probabilities), GOLD).tolist() == scores.tolist()
    with pytest.raises(ValueError, match=r"answers have the shape \(2, 3\), and gold labels \(2, 2\)"):
        KIND.score(LOGITS, [(1, 0), (0, 1)])


def test_a_model_that_answers_no_label_is_doubted() -> None:
    assert KIND.doubt(KIND.score(LOGITS[1:], GOLD[1:])).startswith("no label of any dev example")
    assert KIND.doubt(KIND.score(LOGITS, GOLD)) == ""


def test_sigmoids_keep_their_precision_and_overflow_nowhere() -> None:
    with np.errstate(all="raise", under="ignore"):
        answers = KIND.activate(np.array([[-1000.0, 0.0, 1000.0]], np.float32))
    assert answers.dtype == np.float32
    assert answers.tolist() == [[0.0, 0.5, 1.0]]
    assert np.isfinite(KIND.deactivate(answers)).all()
    assert KIND.deactivate(KIND.activate(LOGITS)) == pytest.approx(LOGITS, abs=1e-5)


def test_an_answer_is_every_label_above_one_half_the_likeliest_first() -> None:
    answers = np.array([[0.9, 0.3, 0.95], [0.1, 0.4, 0.2]])
    assert KIND.decode(answers, ["joy", "anger", "fear"]) == [
        Prediction("fear", 0.95, labels=(("fear", 0.95), ("joy", 0.9))), Prediction("anger", 0.4, labels=()),
    ]  # fmt: skip


def test_answers_differ_where_a_label_crosses_its_threshold() -> None:
    found = LOGITS + np.array([[0.0, 0.5, 0.0], [0.0, 0.105, 0.0]], np.float32)
    agreement = KIND.agree(LOGITS, found, decided=0.2)
    assert agreement.differs.tolist() == [False, True]
    assert agreement.undecided.tolist() == [True, True]  # nothing crosses; what does lies within 0.2 of 0
    assert KIND.agree(LOGITS, found, decided=0.05).undecided.tolist() == [True, False]
    assert agreement.distance.tolist() == pytest.approx([0.5, 0.105], abs=1e-6)
    assert KIND.margin(KIND.activate(LOGITS)).tolist() == pytest.approx([0.5, 0.1], abs=1e-5)


def test_losses_are_binary_cross_entropies() -> None:
    outputs, labels = {"logits": torch.tensor(LOGITS)}, torch.tensor(GOLD)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs["logits"], labels.float())
    assert float(KIND.loss(outputs, {"labels": labels})) == pytest.approx(float(expected))
    assert float(KIND.loss(outputs, {"labels": labels}, reduction="sum")) == pytest.approx(2 * float(expected))
    assert KIND.losses(LOGITS.astype(np.float64), GOLD).mean() == pytest.approx(float(expected))
    teacher = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
    soft = torch.nn.functional.binary_cross_entropy_with_logits(outputs["logits"] / 2, (teacher / 2).sigmoid()) * 4
    assert float(KIND.soft_loss(outputs, teacher, {}, 2.0)) == pytest.approx(float(soft))
    assert KIND.blend([np.array([[0.0]]), np.array([[1.0]])], 1.0) == pytest.approx(np.array([[0.4706]]), abs=1e-4)
    p, q = KIND.activate(np.array([1.0])), KIND.activate(np.array([-0.5]))
    apart = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert KIND.divergence(np.array([[1.0]]), np.array([[-0.5]])) == pytest.approx(apart)


def test_labels_go_in_the_order_of_the_model() -> None:
    # the task's first label is the model's third
    assert KIND.reordered([(1, 0, 0), (0, 1, 1)], [2, 0, 1]) == [(0, 0, 1), (1, 1, 0)]
    with pytest.raises(ModelError, match="the data has 2 labels; the model has 3"):
        KIND.reordered([(1, 0)], [0, 1, 2])


@pytest.mark.parametrize(
    ("cell", "names"),
    [("joy, fear", ["joy", "fear"]), (["joy"], ["joy"]), ("", []), (" ", []), (None, []), (float("nan"), []),
     (3, [3]), ("joy,", ["joy", ""])],
)  # fmt: skip
def test_a_cell_names_labels_between_commas_or_in_a_list(cell: Any, names: list[Any]) -> None:
    assert KIND.cell_labels(cell) == names
    assert KIND.gold_of([2, 0], 4) == (1, 0, 1, 0)
    assert KIND.classes((1, 0, 1, 0)) == [0, 2]


@pytest.mark.parametrize(
    ("kind", "values", "recognized"),
    [("multi_label", ["joy,fear", "joy", ""], True), ("multi_label", ["a,b", "b,c", "c,a"], True),
     ("multi_label", [["joy"], []], True), ("multi_label", ["arts, crafts", "sports", "arts, crafts"], False),
     ("multi_label", ["joy", "fear"], False), ("multi_label", [0, 1], False), ("multi_label", [], False),
     ("regression", ["0.5", "3"], True), ("regression", ["1", "2.0"], False), ("regression", [0.5, None], True),
     ("regression", ["0.5", "high"], False), ("classification", ["joy", "fear"], False)],
)  # fmt: skip
def test_a_column_is_recognized_by_its_cells(kind: str, values: list[Any], recognized: bool) -> None:
    assert kinds.get(kind).recognizes(values) is recognized


def table(folder: Path, rows: list[str], name: str = "a.csv", **settings: Any) -> files.Config:
    (folder / name).write_text("\n".join(rows) + "\n", "utf-8")
    return files.Config(
        files={"train": str(folder / name)}, text="text", label="labels", kind="multi_label", **settings
    )


def test_labels_come_from_the_data_and_every_one_is_counted(tmp_path: Path) -> None:
    rows = [f'text {i},"{"joy,fear" if i % 2 else "" if i % 3 else "anger"}"' for i in range(40)]
    data = files.load(table(tmp_path, ["text,labels", *rows]))
    assert data.labels == ("anger", "fear", "joy")
    assert data.kind == "multi_label"
    assert set(data.train.labels) == {(0, 1, 1), (1, 0, 0), (0, 0, 0)}
    assert [set(split.labels) == set(data.train.labels) for split in (data.dev, data.test)] == [True, True]
    more = files.load(table(tmp_path, ["text,labels", *rows], labels=("joy", "anger", "fear", "envy")))
    assert more.labels == ("joy", "anger", "fear", "envy")
    assert "train has no example of 'envy'" in more.notes


def test_lists_of_names_and_of_indices_are_read(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"text {i}", "labels": [["joy", "fear"], [], ["fear"]][i % 3]}) for i in range(30)]
    data = files.load(table(tmp_path, rows, "a.jsonl"))
    assert (data.labels, set(data.train.labels)) == (("fear", "joy"), {(1, 1), (0, 0), (1, 0)})
    rows = [json.dumps({"text": f"text {i}", "labels": [[0, 1], [], [1]][i % 3]}) for i in range(30)]
    data = files.load(table(tmp_path, rows, "b.jsonl", labels=("joy", "fear")))
    assert set(data.train.labels) == {(1, 1), (0, 0), (0, 1)}


def test_parquet_lists_take_the_names_that_the_file_gives(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"text": [f"text {i}" for i in range(30)], "labels": [[[0, 1], [], [1]][i % 3] for i in range(30)]}
    feature = {"feature": {"names": ["joy", "fear"], "_type": "ClassLabel"}, "_type": "Sequence"}
    schema = {b"huggingface": json.dumps({"info": {"features": {"labels": feature}}}).encode()}
    parquet.write_table(arrow.table(columns).replace_schema_metadata(schema), tmp_path / "a.parquet")
    config = files.Config(files={"train": str(tmp_path / "a.parquet")}, text="text", label="labels", kind="multi_label")
    data = files.load(config)
    assert (data.labels, set(data.train.labels)) == (("joy", "fear"), {(1, 1), (0, 0), (0, 1)})


@pytest.mark.parametrize(
    ("row", "message"),
    [('fine,"joy,envy"', "a.csv:42: unknown label 'envy'; known: fear, joy"),
     ('fine,"joy,joy"', "a.csv:42: the label 'joy' is named twice"),
     ('fine,"joy,"', "a.csv:42: empty label"),
     (',joy', "a.csv:42: empty text in 'text'")],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, row: str, message: str) -> None:
    rows = [f"text {i},{'joy' if i % 2 else 'fear'}" for i in range(40)]
    with pytest.raises(DataError) as caught:
        files.load(table(tmp_path, ["text,labels", *rows, row], labels=("joy", "fear")))
    assert message in str(caught.value)


def test_a_column_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'labels' names no label in any of 9 rows"):
        files.load(table(tmp_path, ["text,labels", *(f"text {i}," for i in range(9))]))


WORDS = {"warm": "joy", "bright": "joy", "dark": "fear", "cold": "fear", "loud": "anger", "grey": ""}


def written(folder: Path, **counts: int) -> dict[str, str]:
    """JSONL files of texts whose labels are those that their words have."""
    generator, paths = random.Random(7), {}
    for name, count in counts.items():
        rows = []
        for _ in range(count):
            words = [generator.choice([*WORDS]) for _ in range(generator.randint(1, 3))]
            rows.append({"text": " ".join(words), "labels": sorted({WORDS[word] for word in words} - {""})})
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return paths


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multi_label")
    document = {
        "task": {
            "files": written(folder, train=300, dev=48, test=64), "text": "text", "label": "labels",
            "kind": "multi_label", "drop_overlaps": False,
        },
        "model": "scratch:bert-1x32",
        "stages": [{"finetune": {"epochs": 6, "learning_rate": 1e-2}}],
        "variants": {
            "base": ["export"],
            "int8": ["export", {"static_int8": {"calibration": "min_max", "calibration_samples": 16}}],
        },
        "engines": [{"onnxruntime": {"tune": False}}, {"openvino": {"tune": False}}],
        "benchmark": {"batch_sizes": [1], "seconds": 0.05, "rounds": 3, "sample": 8},
        "check": [{"accuracy": 60, "confident": False, "gates": ["parity", "invariance"]}],
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(document), "utf-8")
    return path


@pytest.fixture(scope="module")
def report(recipe: Path) -> toolchain.Report:
    return toolchain.run(recipe, store=recipe.parent / "store", output=recipe.parent / "report")


def checkpoint(recipe: Path) -> Path:
    (path,) = (path.parent for path in (recipe.parent / "store/checkpoint").glob("*/config.json"))
    return path


@pytest.mark.slow
def test_the_pipeline_trains_quantizes_judges_and_reports_a_model_of_several_labels(
    report: toolchain.Report, recipe: Path
) -> None:
    shown = json.loads((recipe.parent / "report/report.json").read_text())
    assert shown["metric"] == {"name": "micro F1", "unit": "", "binary": False}
    assert len(shown["lines"]) == 4
    for line in shown["lines"]:
        assert line["gate_parity"] == line["gate_invariance"] == "passed", line
        assert 60 < line["accuracy_percent_low"] <= line["accuracy_percent"] <= line["accuracy_percent_high"] <= 100
        assert line["mcnemar_p"] is line["examples_lost"] is None
    line = next(line for line in report.lines if line.name == "int8/openvino")
    evidence = {verdict.gate: verdict.evidence for verdict in line.gates}
    assert "label sets differ" in evidence["parity"]
    assert "label set flips 0" in evidence["invariance"]
    config = json.loads((checkpoint(recipe) / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


@pytest.mark.slow
def test_a_built_engine_answers_every_label_with_its_probability(report: toolchain.Report, recipe: Path) -> None:
    engine = next(path for path in (recipe.parent / "store/engine").iterdir() if (path / "engine.json").is_file())
    predictor, texts = Predictor(engine, 1), ["warm cold", "grey", "loud"]
    for prediction, row in zip(predictor.predict(texts), predictor.probabilities(texts).tolist(), strict=True):
        above = {name: each for name, each in zip(predictor.labels, row, strict=True) if each > 0.5}
        assert prediction.labels is not None
        assert dict(prediction.labels) == above
        assert prediction.probability == max(row)
    assert dict(predictor.predict(texts)[0].labels or ()).keys() == {"joy", "fear"}


@pytest.mark.slow
def test_a_model_of_several_labels_is_taken_in_for_them_and_refused_for_one(
    recipe: Path, report: toolchain.Report, tmp_path: Path
) -> None:
    def adopting(folder: Path, **changes: Any) -> Any:
        path = tmp_path / "changed.yaml"
        variants = {"base": [{"adopt": {"path": str(folder)}}, "export"]}
        document = json.loads(recipe.read_text("utf-8")) | {"stages": [], "variants": variants, "check": [], **changes}
        path.write_text(json.dumps(document), "utf-8")
        return load(path)

    assert adopting(checkpoint(recipe))
    other = r"is a model for multi-label classification .*; only single-label classification is served"
    with pytest.raises(RecipeError, match=rf"{other} \(name a task of the kind multi_label, or"):
        adopting(checkpoint(recipe), task="reviews")
    other = r"is a model for single-label classification .*; only multi-label classification is served"
    with pytest.raises(RecipeError, match=other):
        adopting(classifier_folder())
