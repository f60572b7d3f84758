"""A model for token classification goes the whole way: trained here, or saved by transformers and taken in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.builders import classifier_folder, context
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
