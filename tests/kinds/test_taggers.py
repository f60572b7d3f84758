"""A model for token classification goes the whole way: trained here, or saved by transformers and taken in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolchain
from tests.builders import classifier_folder, context
from toolchain import kinds
from toolchain.core import registry
from toolchain.core.data import Dataset
from toolchain.core.errors import ModelError, RecipeError
from toolchain.layers import sensitivity
from toolchain.model import adopt, export, scratch
from toolchain.pipeline import plan
from toolchain.pipeline.recipe import load
from toolchain.runtime.predictor import Predictor
from toolchain.tasks import mentions

DATA = mentions.load(mentions.Config(train_size=40, dev_size=24, test_size=8))


def saved(folder: Path, labels: tuple[str, ...]) -> Path:
    """A tagger with random weights, saved by transformers alone."""
    import torch
    import transformers

    scratch.create("scratch:bert-2x64", DATA.train.texts, 17, folder / "start")
    torch.manual_seed(3)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    config = transformers.AutoConfig.from_pretrained(folder / "start", **names)
    model = transformers.AutoModelForTokenClassification.from_config(config)
    with torch.no_grad():  # so that tags differ from word to word
        model.classifier.weight.mul_(40)
    model.save_pretrained(folder / "model")
    transformers.AutoTokenizer.from_pretrained(folder / "start").save_pretrained(folder / "model")
    return folder / "model"


def taken_in(path: Path, out: Path, data: Dataset = DATA) -> Path:
    """That checkpoint as an ONNX Runtime engine in fp32."""
    given = context(out, data)
    for name in ("checkpoint", "graph", "engine"):
        (out / name).mkdir()
    adopt.apply(adopt.Config(path=str(path)), out / "checkpoint", given)
    export.apply(out / "checkpoint", out / "graph", export.Config(), given)
    engine = registry.get("engines", "onnxruntime")
    engine.module.build(out / "graph", out / "engine", engine.config(tune=False), given)
    for name in ("interface.json", "tokenizer.json"):
        shutil.copyfile(out / "graph" / name, out / "engine" / name)
    return out / "engine"


def test_entities_and_places_are_those_of_transformers_pipeline(tmp_path: Path) -> None:
    import transformers

    labels = tuple(reversed(DATA.labels))
    folder = saved(tmp_path, labels)
    texts = [text for (text,) in DATA.dev.texts] + ["Ford's (Oslo) office—Mount-Lima…", "  Café Ωmega ", "\t", "x"]
    (tmp_path / "engine").mkdir()
    predictor = Predictor(taken_in(folder, tmp_path / "engine"), 1)
    assert predictor.labels == labels
    pipeline = transformers.pipeline("token-classification", str(folder), aggregation_strategy="first")
    found = [prediction.entities or () for prediction in predictor.predict(texts, batch_size=5)]
    expected = [pipeline(text) for text in texts]
    assert sum(map(len, expected)) > 50
    for text, ours, theirs in zip(texts, found, expected, strict=True):
        assert [(each.type, each.start, each.end) for each in ours] == [
            (each["entity_group"], each["start"], each["end"]) for each in theirs
        ], text
        assert [each.text for each in ours] == [text[each["start"] : each["end"]] for each in theirs]
        assert [each.probability for each in ours] == pytest.approx([each["score"] for each in theirs], abs=1e-4)


def test_an_onnx_graph_of_tags_is_taken_in_for_tags_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path, DATA.labels)
    taken_in(folder, tmp_path)
    for name in ("bare", "out", "other"):
        (tmp_path / name).mkdir()
    shutil.copyfile(tmp_path / "graph/model.onnx", tmp_path / "bare/model.onnx")
    shutil.copyfile(folder / "tokenizer.json", tmp_path / "bare/tokenizer.json")
    taking = adopt.Config(path=str(tmp_path / "bare"), max_length=64)
    shutil.copyfile(folder / "config.json", tmp_path / "bare/config.json")
    shutil.copyfile(folder / "tokenizer_config.json", tmp_path / "bare/tokenizer_config.json")
    adopt.apply(taking, tmp_path / "out", context(tmp_path, DATA))
    interface = json.loads((tmp_path / "out/interface.json").read_text())
    assert (interface["kind"], tuple(interface["labels"])) == ("token_classification", DATA.labels)
    (tmp_path / "bare/config.json").unlink()
    with pytest.raises(ModelError, match=r"is a graph for token classification .*; only single-label classification"):
        adopt.apply(taking, tmp_path / "other", context(tmp_path))


def test_a_tagger_is_refused_for_another_kind_and_a_classifier_for_tags_before_any_work(tmp_path: Path) -> None:
    folder = saved(tmp_path, DATA.labels)

    def recipe(task: str, model: Path) -> Any:
        (tmp_path / "r.yaml").write_text(
            json.dumps({"task": task, "model": str(model), "variants": {"base": ["export"]}})
        )
        return load(tmp_path / "r.yaml")

    assert recipe("mentions", folder)
    with pytest.raises(RecipeError, match=r"is a model for token classification .*; only single-label classification"):
        recipe("reviews", folder)
    with pytest.raises(RecipeError, match=r"is a model for single-label classification .*; only token classification"):
        recipe("mentions", classifier_folder())
    assert "name a task of the kind token_classification" in str(adopt.refusal(str(folder)))


def test_a_tagger_of_other_tags_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"was trained for the labels O, B-x, I-x; the task has O, B-company"):
        taken_in(saved(tmp_path, ("O", "B-x", "I-x")), tmp_path)


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        (
            ["export", "cls_only"],
            "cls_only cannot be taken for a task of the kind token_classification: its last layer",
        ),
        (["export", "with_tokenizer"], "with_tokenizer cannot be taken .*: its graph does not say where words begin"),
        (
            ["neighbours", "finetune", "export"],
            "neighbours makes texts that keep one label; a task of the kind token_c",
        ),
    ],
)
def test_techniques_that_answer_texts_as_a_whole_are_refused_by_name(
    tmp_path: Path, stages: list[str], says: str
) -> None:
    stages = stages if "finetune" in stages else ["finetune", *stages]
    document = {"task": "mentions", "model": "scratch:bert-1x32", "variants": {"base": stages}}
    (tmp_path / "r.yaml").write_text(json.dumps(document))
    with pytest.raises(RecipeError, match=says):
        load(tmp_path / "r.yaml")


def test_a_sensitivity_scan_is_refused(tmp_path: Path) -> None:
    document = {"task": "mentions", "model": "scratch:bert-1x32", "variants": {"base": ["finetune", "export"]}}
    (tmp_path / "r.yaml").write_text(json.dumps(document))
    with pytest.raises(RecipeError, match="sensitivity cannot be measured for a task of the kind token_classification"):
        plan.sensitivity(load(tmp_path / "r.yaml"), sensitivity.Config())


@pytest.mark.slow
def test_the_pipeline_trains_quantizes_judges_and_reports_a_tagger(tmp_path: Path) -> None:
    document = {
        "task": {"mentions": {"train_size": 300, "dev_size": 40, "test_size": 48}},
        "model": "scratch:bert-2x64",
        "stages": [{"finetune": {"epochs": 5, "learning_rate": 3e-3}}],
        "variants": {
            "base": ["export"],
            "taught": [{"distill": {"layers": 1, "finetune": {"epochs": 1, "learning_rate": 3e-3}}}, "export"],
            "int8": ["export", {"static_int8": {"calibration": "min_max", "calibration_samples": 16}}],
            "dynamic": ["export", "dynamic_int8"],
        },
        "engines": [{"onnxruntime": {"tune": False}}, {"openvino": {"tune": False}}],
        "benchmark": {"batch_sizes": [1], "seconds": 0.05, "rounds": 3, "sample": 8},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(document))
    report = toolchain.run(tmp_path / "r.yaml", store=tmp_path / "store", output=tmp_path / "report")
    told = json.loads((tmp_path / "report/report.json").read_text())
    assert told["metric"] == {"name": "entity F1", "unit": "%", "binary": False}
    lines = {line["name"]: line for line in told["lines"]}
    assert set(lines) == {
        f"{name}/{engine}" for name in ("base", "taught", "int8") for engine in ("onnxruntime", "openvino")
    } | {"dynamic/onnxruntime"}
    for name in ("base/onnxruntime", "base/openvino", "taught/onnxruntime"):
        assert lines[name]["gate_parity"] == lines[name]["gate_invariance"] == "passed"
    assert lines["base/onnxruntime"]["accuracy_percent"] == lines["base/openvino"]["accuracy_percent"] > 50
    line = next(line for line in report.lines if line.name == "int8/openvino")
    assert "entity sets differ" in next(verdict.evidence for verdict in line.gates if verdict.gate == "parity")
    scores = np.array(line.evaluation["scores"]["test"])
    assert scores.shape == (48, 3)
    kind = kinds.named(line.evaluation)
    assert kind.combine(scores) == line.evaluation["splits"]["test"]["score"]
    assert scores[:, 0].sum() + scores[:, 2].sum() == sum(
        line.evaluation["label_names"][tag].startswith("B-")
        for words in line.evaluation["labels"]["test"]
        for *_, tag in words
    )
    page = (tmp_path / "report/report.html").read_text("utf-8")
    assert "entity F1 on 48 test examples" in page


def test_what_a_smaller_vocabulary_costs_is_said_in_entities(tmp_path: Path) -> None:
    for name in ("checkpoint", "pruned"):
        (tmp_path / name).mkdir()
    adopt.apply(adopt.Config(path=str(saved(tmp_path, DATA.labels))), tmp_path / "checkpoint", context(tmp_path, DATA))
    prune = registry.get("compress", "vocabulary_prune")
    found = prune.module.apply(tmp_path / "checkpoint", tmp_path / "pruned", prune.config(), context(tmp_path, DATA))
    assert kinds.of_folder(tmp_path / "pruned").REFUSED
    assert 0 <= found["unseen"]["all"]["accuracy_before"] <= 1
