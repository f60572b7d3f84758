"""Which made texts may be learned from, who labels them, where an augmentation may stand, and what trains on it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import classifier_folder, context
from tests.tiny import call
from toolchain.augment import unlabelled_text
from toolchain.augment.shared import examples_file as more_data
from toolchain.augment.shared.examples import AugmentConfig, finish
from toolchain.augment.shared.examples_file import Example
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError, RecipeError
from toolchain.core.stage import Context
from toolchain.model import checkpoint, teach
from toolchain.model.encoded import encode, logits
from toolchain.pipeline import plan, recipe
from toolchain.pipeline.document import Document, parse_value

LABELS = ("negative", "positive")
TRAIN = Split([("a warm and funny film",), ("the jokes are old",)], [1, 0])
TEST = Split([("one two three four five six seven eight nine ten eleven twelve",), ("never dull",)], [1, 0])
DATA = Dataset(TRAIN, Split([("an honest story",)], [1]), TEST, LABELS)


def within(folder: Path, data: Dataset = DATA, labeller: Path | None = None) -> Context:
    (folder / "out").mkdir(exist_ok=True)
    return dataclasses.replace(context(folder / "work", data), labeller=labeller)


def kept(folder: Path, texts: list[str], data: Dataset = DATA, **settings: Any) -> tuple[list[Any], dict[str, Any]]:
    labeller = settings.pop("labeller", None)
    made = [Example((text,), 1, 0) for text in texts]
    config = AugmentConfig(teacher="before" if labeller else None, **settings)
    told = finish(made, folder / "out", config, within(folder, data, labeller))
    rows = [json.loads(line) for line in (folder / "out" / more_data.FILE).read_text("utf-8").splitlines()]
    return rows, told


def test_empty_known_and_judged_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = [
        "a new text", "", "  ", "A new, text!", "A warm and funny film .", "an honest story", "Never dull!",
        "so one two three four five six seven eight nine ten and on", "two three four five six seven eight nine ten",
    ]  # fmt: skip
    rows, told = kept(tmp_path, texts)
    assert [row["text"] for row in rows] == [["a new text"], ["two three four five six seven eight nine ten"]]
    assert {name: told[name] for name in ("made", "kept", "empty", "duplicates", "leaks")} == {
        "made": 9, "kept": 2, "empty": 2, "duplicates": 2, "leaks": 3,
    }  # fmt: skip
    assert rows[0] == {"text": ["a new text"], "label": "positive", "of": 0}
    assert told["examples"][0] == {"text": "a new text", "label": "positive", "of": "a warm and funny film"}


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 2 new texts may be learned from: 1 empty, 1 leaks"):
        kept(tmp_path, ["", "never dull"])


def undecided(folder: Path) -> Path:
    """A classifier that gives one half of the texts below one label, and the other half the other."""
    import torch

    source = classifier_folder()
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    with torch.no_grad():
        model.classifier.bias[0] -= float(np.median(np.subtract(*_logits(source).T)))
    folder.mkdir()
    checkpoint.save(model, tokenizer, folder, max_length=32, labels=LABELS, pair=False)
    return folder


def _logits(folder: Path) -> Any:
    model, tokenizer = checkpoint.load_model(folder), checkpoint.load_tokenizer(folder)
    split = Split([(text,) for text in TEXTS], [0] * len(TEXTS))
    return np.asarray(logits(model, encode(tokenizer, split, 32, checkpoint.model_inputs(model, tokenizer)), 1))


TEXTS = [
    "a thin plot",
    "great care and one laugh",
    "far too long",
    "it finds its feet",
    "the finest story",
    "old jokes",
]


@pytest.mark.parametrize("labels", [LABELS, LABELS[::-1]], ids=["its order", "another order"])
def test_a_teacher_labels_by_name_and_leaves_out_what_it_is_asked_to(labels: tuple[str, ...], tmp_path: Path) -> None:
    data = dataclasses.replace(DATA, labels=labels)
    labeller = undecided(tmp_path / "labeller")
    found = np.exp(_logits(labeller))
    shares = found.max(1) / found.sum(1)
    names = [LABELS[index] for index in found.argmax(1)]
    assert set(names) == set(LABELS)
    rows, told = kept(tmp_path, TEXTS, data, labeller=labeller)
    assert [row["label"] for row in rows] == names
    made_under = labels[1]
    assert told["relabelled"] == sum(name != made_under for name in names)
    rows, told = kept(tmp_path, TEXTS, data, labeller=labeller, agree=True)
    assert {row["label"] for row in rows} == {made_under}
    assert told["disagreeing"] == sum(name != made_under for name in names)
    bound = float(np.median(shares))
    rows, told = kept(tmp_path, TEXTS, data, labeller=labeller, confidence=bound)
    assert [row["text"][0] for row in rows] == [t for t, share in zip(TEXTS, shares, strict=True) if share >= bound]
    assert told["unsure"] == len(TEXTS) - len(rows) > 0


def test_settings_that_ask_a_teacher_need_one() -> None:
    with pytest.raises(ValueError, match="agree and confidence ask a teacher"):
        AugmentConfig(teacher=None, confidence=0.9)
    with pytest.raises(ValueError, match="a name of no letters"):
        AugmentConfig(teacher="")
    with pytest.raises(ValueError, match="nobody has labelled these texts"):
        unlabelled_text.Config(path="x.txt", teacher=None)


def test_more_examples_are_joined_by_label_name_and_no_text_comes_twice(tmp_path: Path) -> None:
    for number, texts in enumerate((["one", "two\u2028\x85"], ["Two!", "three"])):
        (tmp_path / str(number)).mkdir()
        more_data.write(tmp_path / str(number), [Example((text,), 1) for text in texts], LABELS)
    data = dataclasses.replace(DATA, labels=LABELS[::-1])
    found = more_data.joined(data, [tmp_path / "0", tmp_path / "1"])
    assert list(found.train.texts) == [*TRAIN.texts, ("one",), ("two\u2028\x85",), ("three",)]
    assert list(found.train.labels) == [1, 0, 0, 0, 0]
    assert (found.dev, found.test) == (data.dev, data.test)
    with pytest.raises(DataError, match=r"examples.jsonl:1: label 'positive' is none of good, bad"):
        more_data.read(tmp_path / "0", ("good", "bad"))


def test_unlabelled_text_is_read_from_lines_and_tables(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one new text\n\nanother\n", "utf-8")
    (tmp_path / "a.csv").write_text("id,text\n1,one new text\n2,another\n", "utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "one new text"}\n{"text": "another"}\n', "utf-8")
    for name in ("a.txt", "a.csv", "a.jsonl"):
        config = unlabelled_text.Config(path=str(tmp_path / name))
        given = within(tmp_path, labeller=classifier_folder())
        told = unlabelled_text.apply(classifier_folder(), tmp_path / "out", config, given)
        assert [text for (text,) in more_data.read(tmp_path / "out", LABELS).texts] == ["one new text", "another"]
        assert (told["kept"], told["relabelled"]) == (2, 0)
    (tmp_path / "b.txt").write_text("one\u2028text\r\nanother\x0cone\n", "utf-8")  # a line ends where a line ends
    lines = unlabelled_text.Config(path=str(tmp_path / "b.txt"))
    unlabelled_text.apply(classifier_folder(), tmp_path / "out", lines, given)
    assert list(more_data.read(tmp_path / "out", LABELS).texts) == [("one\u2028text",), ("another\x0cone",)]
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n{"text": ["two"]}\n{"text": 3}\n', "utf-8")
    with pytest.raises(DataError, match=r"2 rows cannot be used:\s+.*c.jsonl:2: 'text' is \['two'\]; text is expected"):
        unlabelled_text.apply(
            classifier_folder(), tmp_path / "out", unlabelled_text.Config(path=str(tmp_path / "c.jsonl")), given
        )
    with pytest.raises(ValueError, match="a text file has no columns"):
        unlabelled_text.Config(path="a.txt", text="sentence")
    one = unlabelled_text.apply(classifier_folder(), tmp_path / "out", dataclasses.replace(config, limit=1), given)
    assert one["made"] == 1
    pairs = unlabelled_text.Config(path=str(tmp_path / "a.csv"), text=("id", "text"))
    with pytest.raises(DataError, match="2 columns of text, and the task has single texts"):
        unlabelled_text.apply(classifier_folder(), tmp_path / "out", pairs, given)
    with pytest.raises(DataError, match="no such file"):
        unlabelled_text.identity(unlabelled_text.Config(path=str(tmp_path / "none.txt")))


RECIPE = """\
task: {reviews: {train_size: 32, dev_size: 16, test_size: 16}}
model: MODEL
stages: [{finetune: {epochs: 1, batch_size: 8}}]
variants:
  plain: [{distill: {layers: 1, finetune: {epochs: 1, batch_size: 8}}}, export]
  more:
    - unlabelled_text: {path: more.txt}
    - distill: {layers: 1, finetune: {epochs: 1, batch_size: 8}}
    - export
"""


def _parsed(text: str, folder: Path) -> Any:
    (folder / "more.txt").write_text("a warm story\n", "utf-8")
    given = text.replace("MODEL", "scratch:bert-2x64").replace("more.txt", str(folder / "more.txt"))
    return recipe.parse(Document(parse_value(given), folder / "r.yaml"))


def test_what_learns_after_an_augmentation_reads_it_and_its_teacher_answers_on_it(tmp_path: Path) -> None:
    made = plan.make(_parsed(RECIPE, tmp_path), "compress")
    steps = {step.label: step for step in made.steps.values()}
    more, (plain, student) = steps["more · unlabelled_text"], [steps[f"{v} · distill"] for v in ("plain", "more")]
    assert more.inputs == (steps["finetune"].id,) * 2  # what stands before it, and who labels
    assert more.id in student.inputs
    assert more.id not in plain.inputs
    taught = [made.steps[step.inputs[2]] for step in (plain, student)]
    assert [step.stage for step in taught] == ["teach", "teach"]
    assert [step.inputs[1:] for step in taught] == [(), (more.id,)]
    assert [step.stage for step in plan.make(_parsed(RECIPE, tmp_path), "finetune").steps.values()] == ["finetune"]
    assert steps["finetune"].inputs == ()


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ("[MORE, export]", "nothing after unlabelled_text learns from the examples"),
        ("[export, MORE]", "unlabelled_text cannot come after export"),
        ("[{distill: {layers: 1}}, neighbours, export]", "nothing after neighbours learns"),
        ("[neighbours, magnitude_prune, export]", "nothing after neighbours learns"),
        (
            "[{masked_words: {model: 'no such'}}, {distill: {layers: 1}}, export]",
            "masked_words: model source 'no such'",
        ),
        ("[{unlabelled_text: {path: nothing.csv}}, {distill: {layers: 1}}, export]", "nothing.csv"),
        ("[{unlabelled_text: {path: blank.txt}}, {distill: {layers: 1}}, export]", "blank.txt: is empty"),
        (
            "[{unlabelled_text: {path: bytes.txt}}, {distill: {layers: 1}}, export]",
            "bytes.txt:1: byte 0xff is not utf-8",
        ),
        ("[{unlabelled_text: {path: other.csv}}, {distill: {layers: 1}}, export]", "other.csv:1: no column 'text'"),
        ("[{unlabelled_text: {path: no.jsonl}}, {distill: {layers: 1}}, export]", "none of its 1 rows holds a text"),
        ("[{masked_words: {model: CLASSIFIER}}, {distill: {layers: 1}}, export]", "is no masked language model"),
    ],
)
def test_an_augmentation_stands_before_what_learns_from_it(items: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n\n", "utf-8")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00a")
    (tmp_path / "other.csv").write_text("a,b\none,two\n", "utf-8")
    (tmp_path / "no.jsonl").write_text('{"text": ""}\n', "utf-8")
    items = items.replace("MORE", "{unlabelled_text: {path: more.txt}}").replace("CLASSIFIER", str(classifier_folder()))
    text = RECIPE + f"  wrong: {items}\n"
    with pytest.raises(RecipeError, match=said):
        _parsed(text, tmp_path)


def test_before_fine_tuning_nobody_stands_who_could_label(tmp_path: Path) -> None:
    text = RECIPE.replace("stages: [", "stages: [neighbours, ")
    with pytest.raises(RecipeError, match="neighbours: teacher: before: nothing is fine-tuned before it that"):
        _parsed(text, tmp_path)
    for teacher in ("model.finetune", "finetune"):
        with pytest.raises(RecipeError, match=f"teacher: {teacher}|teacher '{teacher}'"):
            _parsed(text.replace("neighbours,", f"{{neighbours: {{teacher: {teacher}}}}},"), tmp_path)
    (tmp_path / "v1.finetune").symlink_to(classifier_folder())  # a folder of that name is a checkpoint from outside
    _parsed(text.replace("neighbours,", f"{{neighbours: {{teacher: {tmp_path / 'v1.finetune'}}}}},"), tmp_path)
    made = plan.make(_parsed(text.replace("neighbours,", "{neighbours: {teacher: null}},"), tmp_path), "finetune")
    first, tuned = made.steps.values()
    assert (first.stage, first.source, tuned.inputs) == ("augment", "scratch:bert-2x64", (first.id,))


def test_a_checkpoint_as_the_model_labels_what_is_made_for_its_student(tmp_path: Path) -> None:
    text = RECIPE.replace("MODEL", str(classifier_folder())).replace(
        "stages: [{finetune: {epochs: 1, batch_size: 8}}]", ""
    )
    steps = [step.stage for step in plan.make(_parsed(text, tmp_path), "augment").steps.values()]
    assert steps == ["adopt", "augment"]


def test_settings_of_a_model_of_its_own_are_checked_as_those_of_all(tmp_path: Path) -> None:
    own = "models: {one: {source: 'scratch:bert-2x64', unlabelled_text: {path: more.txt, teacher: TEACHER}}}"
    text = RECIPE.replace("model: MODEL", own)
    with pytest.raises(RecipeError, match="teacher 'nobody' is nothing that stands before it"):
        _parsed(text.replace("TEACHER", "nobody"), tmp_path)
    assert _parsed(text.replace("TEACHER", "before"), tmp_path)


def test_augmentations_of_one_kind_are_told_apart(tmp_path: Path) -> None:
    """In the history and where they are copied, those before fine-tuning too, without training for them."""
    source = classifier_folder().parent / "encoder"
    (tmp_path / "one.txt").write_text("a warm story\nthe jokes are old\n", "utf-8")
    (tmp_path / "two.txt").write_text("A warm story!\na thin plot\n", "utf-8")
    (tmp_path / "r.yaml").write_text(
        f"""\
task: {{reviews: {{train_size: 16, dev_size: 16, test_size: 16}}}}
model: {source}
stages: [{{unlabelled_text: {{path: one.txt, teacher: {classifier_folder()}}}}}, {{finetune: {{epochs: 1}}}}]
variants:
  student:
    - unlabelled_text: {{path: two.txt}}
    - distill: {{layers: 1, finetune: {{epochs: 1}}}}
    - {{unlabelled_text: {{path: two.txt}}}}
    - distill: {{layers: 1, finetune: {{epochs: 1}}}}
    - export
""",
        "utf-8",
    )
    done = call("augment", "r.yaml", "--store", "store", "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert len(list((tmp_path / "out/student").iterdir())) == 3
    done = call("compress", "r.yaml", "--store", "store", "-o", "student", cwd=tmp_path)
    assert done.code == 0, done.stderr
    history = checkpoint.read_json(tmp_path / "student/history.json")["techniques"]
    assert [entry["technique"] for entry in history] == [
        "unlabelled_text", "finetune", "unlabelled_text", "distill", "unlabelled_text", "distill",
    ]  # fmt: skip


def test_a_run_with_more_text_trains_on_it_and_another_file_is_another_artifact(tmp_path: Path) -> None:
    source = classifier_folder().parent / "encoder"
    (tmp_path / "r.yaml").write_text(RECIPE.replace("MODEL", str(source)), "utf-8")
    (tmp_path / "more.txt").write_text("\n".join(f"a warm story number {n}" for n in range(16)), "utf-8")
    done = call("compress", "r.yaml", "--store", "store", "-o", "out", "--json", cwd=tmp_path / "..")
    assert done.code != 0  # relative to the recipe, not to the current folder
    done = call("compress", "r.yaml", "--store", "store", "-o", "out", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    found = {item["label"]: item for item in done.json}
    assert [found[f"{name} · distill"]["metrics"]["steps"] for name in ("plain", "more")] == [4, 6]
    history = checkpoint.read_json(tmp_path / "out/more/distill/history.json")["techniques"]
    assert [entry["technique"] for entry in history] == ["finetune", "unlabelled_text", "distill"]
    assert history[1]["config"]["path"].endswith("more.txt")
    answered = [teach.read(path)[0].shape for path in sorted((tmp_path / "store/answers").iterdir())]
    assert sorted(answered) == [(32, 2), (48, 2)]
    again = call("compress", "r.yaml", "--store", "store", "--dry-run", cwd=tmp_path)
    assert "run" not in {word for line in again.stdout.splitlines() for word in line.split()[:1]}
    moved = call("augment", "r.yaml", "--store", "store", "--json", cwd=tmp_path)
    (tmp_path / "more.txt").write_text("\n".join(f"an old joke number {n}" for n in range(16)), "utf-8")
    other = call("augment", "r.yaml", "--store", "store", "--json", cwd=tmp_path)
    assert [item["made"] for item in (*moved.json, *other.json)] == [False, True]
    assert moved.json[0]["key"] != other.json[0]["key"]


def test_a_checkpoint_of_ones_own_is_augmented_directly(tmp_path: Path) -> None:
    done = call(
        "augment", str(classifier_folder()), "-t", "neighbours", "--task", "{reviews: {train_size: 16}}", "--set",
        "closeness=-0.9", "--store", "store", "-o", "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("data ")
    assert len(more_data.read(tmp_path / "out", LABELS)) > 8
    named = call("augment", str(classifier_folder()), cwd=tmp_path)
    assert "--technique is missing: back_translation, masked_words, neighbours" in named.stderr
