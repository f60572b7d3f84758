from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.builders import classifier_folder
from tests.pipeline.loading import BASE, load, problems, settings
from toolchain.pipeline import recipe as recipes
from toolchain.pipeline.document import Document
from toolchain.pipeline.keys import Task


def test_a_model_that_the_stages_adopt_needs_no_key_of_its_own(tmp_path: Path) -> None:
    made = load(tmp_path, "stages: [{adopt: {path: mine}}]\nvariants: {base: [export]}\n")
    assert [item.stage for item in made.variants["", "base"]] == ["adopt", "export"]


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("model: {source: m, adopt: {max_length: 96, labels: {bad: negative, good: positive}}}\n", ()),
        ("models: {model: {source: m, adopt: {max_length: 96, labels: {bad: negative, good: positive}}}}\n", ()),
        ("model: m\n", ("adopt.max_length=96", "adopt.labels={bad: negative, good: positive}")),
        ("model: m\n", ("adopt.max_length=96", "adopt.labels.bad=negative", "adopt.labels.good=positive")),
        ("models: {model: m}\n", ("adopt.max_length=96", "adopt.labels={bad: negative, good: positive}")),
    ],
)
def test_a_model_that_is_taken_as_it_is_has_settings(tmp_path: Path, text: str, sets: tuple[str, ...]) -> None:
    shutil.copytree(classifier_folder(), tmp_path / "m")
    found = load(tmp_path, f"{text}variants: {{base: [export]}}\n", *sets)
    config = settings(found, "base", "adopt")
    assert (config.path, config.max_length) == (str(tmp_path / "m"), 96)
    assert config.labels == {"bad": "negative", "good": "positive"}


def test_settings_of_a_model_that_is_fine_tuned_and_not_taken_are_refused(tmp_path: Path) -> None:
    text = BASE.replace("model: scratch:bert-1x32", "model: {source: scratch:bert-1x32, adopt: {max_length: 96}}")
    assert problems(tmp_path, text) == [
        "r.yaml:1:1: models.model adopt: no variant uses it (take it out, or name it in a variant)"
    ]


def test_the_order_of_set_and_data_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "sst").mkdir()
    found = load(tmp_path, f"task: reviews\n{BASE}", "task=sst2", data=str(tmp_path / "sst"))
    assert (found.task.label, found.task.config.folder) == ("sst2", str(tmp_path / "sst"))


def test_a_linked_file_keeps_the_name_that_was_written(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "3f9a").write_text("sentence,label\na,0\nb,1\n")
    (tmp_path / "train.csv").symlink_to("cache/3f9a")
    found = load(tmp_path, f"task: {{files: {{train: train.csv}}}}\n{BASE}")
    assert found.task.config.files == {"train": str(tmp_path / "train.csv")}


@pytest.mark.parametrize(
    "task",
    [
        "{files: {train: train.csv}, text: [sentence, other], label: y, labels: [b, a]}",
        "reviews",
        "{reviews: {train_size: 8}}",
        "{sst2: {folder: data}}",
        "{glue: {dataset: org/name, text: [a, b]}}",
    ],
)
def test_the_task_that_a_manifest_keeps_is_one_that_a_recipe_takes(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.csv").write_text("sentence,other,y\nx,z,a\ny,z,b\n")
    (tmp_path / "data").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "data" / name).write_text("sentence\tlabel\nfine\t1\n")
    named = Task(load(tmp_path, f"task: {task}\n{BASE}"))
    assert named.record is not None
    kept = json.loads(json.dumps(named.record))
    monkeypatch.chdir("/")
    again = Task(
        recipes.parse(Document({"task": kept["settings"], "model": "x/y", "variants": {"a": ["export"]}}, None))
    )
    assert again.identity == kept["identity"] == named.identity
