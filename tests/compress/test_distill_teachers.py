"""Who teaches: teachers as steps of a plan, and what is refused of them before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.builders import classifier_folder, weights
from tests.tiny import call
from toolchain.core.errors import RecipeError
from toolchain.model import checkpoint
from toolchain.pipeline import plan, recipe
from toolchain.pipeline.document import Document, parse_value

RECIPE = """\
task: {reviews: {train_size: 16, dev_size: 16, test_size: 16}}
models: {one: scratch:bert-2x64, two: scratch:albert-2x64}
stages: [{finetune: {epochs: 1}}]
variants:
  base: [export]
  a: [{distill: {layers: 1}}, export]
  b: [{distill: {layers: 1, temperature: 4}}, export]
  c: [vocabulary_prune, {distill: {teacher: finetune}}, export]
  d: [{distill: {teacher: [two.finetune, before]}}, export]
"""


def test_teachers_are_steps_and_answer_once_for_all_their_students() -> None:
    made = plan.make(recipe.parse(Document(parse_value(RECIPE), None)), "compress")
    steps = list(made.steps.values())
    assert [step.stage for step in steps].count("teach") == 2  # one each, of eight students
    tuned = {step.label.partition(" · ")[0]: step.id for step in steps if step.stage == "finetune"}
    students = {step.label.rpartition(" · ")[0]: step for step in steps if step.technique.name == "distill"}
    assert students["one · a"].inputs[:2] == (tuned["one"], tuned["one"])
    assert made.steps[students["one · c"].inputs[0]].technique.name == "vocabulary_prune"
    assert students["one · c"].inputs[1] == tuned["one"]
    assert students["one · d"].inputs[1::2] == (tuned["two"], tuned["one"])
    for step in students.values():
        assert all(made.steps[answers].inputs == (teacher,) for teacher, answers in _pairs(step.inputs))


def test_a_teacher_is_not_asked_for_answers_that_no_loss_learns_from() -> None:
    text = RECIPE.partition("  a:")[0] + (
        "  labels: [{distill: {layers: 1, losses: {labels: 1, logits: 0}}}, export]\n"
        "  inside: [{distill: {layers: 1, losses: {labels: 1, logits: 0, hidden: 1}}}, export]\n"
    )
    both = "distill.teacher=[one.finetune, two.finetune]"  # for the whole recipe: only the first shows its inside
    for sets in ([], [both]):
        made = plan.make(recipe.parse(Document(parse_value(text), None), sets), "compress")
        assert "teach" not in [step.stage for step in made.steps.values()]
        tuned = {step.label.partition(" · ")[0]: step.id for step in made.steps.values() if step.stage == "finetune"}
        students = {step.label.rpartition(" · ")[0]: step for step in made.steps.values() if step.stage == "compress"}
        assert students["two · labels"].inputs == (tuned["two"],)
        assert students["two · inside"].inputs == (tuned["two"], tuned["one" if sets else "two"])


def test_a_student_of_labels_alone_and_one_of_the_inside_alone_are_trained(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        """\
task: {reviews: {train_size: 16, dev_size: 16, test_size: 16}}
model: scratch:bert-2x64
stages: [{finetune: {epochs: 1}}]
variants:
  labels: [{distill: {layers: 1, losses: {labels: 1, logits: 0}, finetune: {epochs: 1}}}, export]
  inside: [{distill: {layers: 1, losses: {labels: 1, logits: 0, hidden: 1}, finetune: {epochs: 1}}}, export]
""",
        "utf-8",
    )
    done = call("compress", "r.yaml", "--store", "store", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "answers of" not in done.stderr


def _pairs(inputs: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(inputs[1::2], inputs[2::2], strict=True))


@pytest.mark.parametrize("teacher", ["finetun", "three.finetune", "low_rank"])
def test_a_teacher_that_stands_nowhere_is_refused_by_name(teacher: str) -> None:
    text = RECIPE.replace("teacher: finetune", f"teacher: {teacher}")
    with pytest.raises(RecipeError, match=f"variants.c: distill: teacher '{teacher}' is nothing that stands before"):
        recipe.parse(Document(parse_value(text), None))


def test_a_teacher_from_outside_with_other_labels_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        f"""\
task: {{reviews: {{train_size: 16, dev_size: 16, test_size: 16}}}}
model: scratch:bert-2x64
stages: [{{finetune: {{epochs: 1}}}}]
variants:
  student: [{{distill: {{teacher: {tmp_path / "teacher"}, layers: 1, finetune: {{epochs: 1}}}}}}, export]
""",
        "utf-8",
    )
    source = classifier_folder()
    (tmp_path / "teacher").mkdir()
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    labels = ("ham", "spam")
    checkpoint.save(model, tokenizer, tmp_path / "teacher", max_length=32, labels=labels, pair=False)
    done = call("compress", "r.yaml", "--store", "store", cwd=tmp_path)
    assert done.code == 1
    assert "was trained for the labels ham, spam; the task has negative, positive" in done.stderr
    assert "[1/" not in done.stderr
    own = "variants.student=[{adopt: {path: teacher}}, {distill: {layers: 1, losses: {labels: 1, logits: 0}}}, export]"
    done = call(
        "compress", "r.yaml", "--store", "store", "--set", "stages=[]", "--set", own, cwd=tmp_path
    )  # it is its own teacher
    assert "was trained for the labels ham, spam" in done.stderr
    assert "[1/" not in done.stderr
    (tmp_path / "teacher" / "interface.json").unlink()  # a folder of another tool has its names in config.json
    config = checkpoint.read_json(tmp_path / "teacher" / "config.json")
    checkpoint.write_json(tmp_path / "teacher" / "config.json", config | {"id2label": {"0": "ham", "1": "spam"}})
    done = call("compress", "r.yaml", "--store", "store", cwd=tmp_path)
    assert "was trained for the labels ham, spam; the task has negative, positive" in done.stderr
    assert "[1/" not in done.stderr
    checkpoint.save(model, tokenizer, tmp_path / "teacher", max_length=32, labels=("negative", "positive"), pair=False)
    longer = ("--set", "finetune.max_length=64")
    done = call("compress", "r.yaml", "--store", "store", "-o", "out", *longer, cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.stderr.count("distill trains on 128 tokens of a text, and what comes of it reads 64") == 1
    assert checkpoint.read_json(tmp_path / "out" / "interface.json")["max_length"] == 64
    history = checkpoint.read_json(tmp_path / "out" / "history.json")["techniques"]
    assert [entry["technique"] for entry in history] == ["finetune", "distill"]


@pytest.mark.parametrize(
    ("teacher", "settings", "says"),
    [
        ("three.finetune", "losses: {hidden: 1}", "mapping: even: the student has 2 layers, and the teacher 1"),
        ("three.finetune", "losses: {relations: 1}, mapping: last", "mapping: last: the student has 2 layers, and the"),
        ("three.finetune", "losses: {relations: 1}", None),
        ("three.finetune", "losses: {hidden: 1}, mapping: [0, 0]", None),
        ("finetune", "losses: {hidden: 1}, mapping: [0, 9]", "mapping: [0, 9] does not map 2 layers of the student to"),
        ("finetune", "finetune: {max_length: 4096}", "max_length: 4096 is more than the 512 tokens that this model"),
        ("short", "losses: {hidden: 1}", "max_length: 128 is more than the 64 tokens that the teacher reads"),
        ("short", "layers: 1", None),
        ("encoder", "layers: 1", "distill: teacher: encoder is a model for embeddings (architectures BertModel)"),
        ("none/such/folder", "layers: 1", "teacher: model source 'none/such/folder': no such folder"),
        (".", "layers: 1", "teacher: . holds no config.json"),
        ("''", "layers: 1", "teacher: a name of no letters"),
    ],
)
def test_a_teacher_is_held_against_its_config_before_any_work(
    teacher: str, settings: str, says: str | None, tmp_path: Path
) -> None:
    for name, architecture, positions in (
        ("encoder", "BertModel", 512),
        ("short", "BertForSequenceClassification", 64),
    ):
        (tmp_path / name).mkdir()
        weights(tmp_path / name / "model.safetensors")
        config = {"architectures": [architecture], "num_hidden_layers": 2, "max_position_embeddings": positions}
        checkpoint.write_json(tmp_path / name / "config.json", config)
    (tmp_path / "r.yaml").write_text(
        f"""\
models: {{one: scratch:bert-2x64, three: scratch:bert-1x64}}
stages: [finetune]
variants: {{base: [export], student: [{{distill: {{teacher: {teacher}, {settings}}}}}, export]}}
""",
        "utf-8",
    )
    told = ""
    try:
        recipe.load(tmp_path / "r.yaml")
    except RecipeError as error:
        told = error.message
    found = [line for line in told.splitlines() if "distill" in line and "distill of three" not in line]
    assert says in found[0] if says else not found


@pytest.mark.parametrize(
    "items", ["{distill: {teacher: nobody/here}}", "{masked_words: {model: nobody/here}}, distill"]
)
def test_what_the_hub_does_not_have_is_missed_before_any_work(items: str, tmp_path: Path) -> None:
    text = f"model: scratch:bert-2x64\nstages: [finetune]\nvariants: {{student: [{items}, export]}}\n"
    (tmp_path / "r.yaml").write_text(text, "utf-8")
    done = call("compress", "r.yaml", "--store", "store", cwd=tmp_path)
    assert done.code == 1
    assert "model 'nobody/here' is not here and cannot be had from the hub" in done.stderr
    assert "[1/" not in done.stderr


def test_tokens_are_compared_before_any_work_where_both_tokenizers_are_here(tmp_path: Path) -> None:
    bert, roberta = (classifier_folder(family).parent / "encoder" for family in ("bert", "roberta"))
    (tmp_path / "r.yaml").write_text(
        f"""\
task: {{reviews: {{train_size: 16, dev_size: 16, test_size: 16}}}}
models: {{bert: {bert}, roberta: {roberta}}}
stages: [{{finetune: {{epochs: 1}}}}]
variants: {{student: [{{distill: {{teacher: bert.finetune, losses: {{hidden: 1}}}}}}, export]}}
""",
        "utf-8",
    )
    done = call("compress", "r.yaml", "--store", "store", cwd=tmp_path)
    assert done.code == 1
    assert "into different tokens: ['<s>'" in done.stderr
    assert "only answers are well-defined" in done.stderr
    assert "[1/" not in done.stderr
