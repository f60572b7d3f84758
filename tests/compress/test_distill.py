"""What a student learns: the parts of its loss, who its teachers are, and what is refused before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import classifier_folder, context, sentences, stopping_at, taught
from toolchain.compress import distill
from toolchain.compress.distill import inner_losses
from toolchain.compress.distill.losses import Losses
from toolchain.compress.shared.recovery import answers_loss
from toolchain.core.errors import ModelError, RecipeError
from toolchain.core.stage import Context, Teaching
from toolchain.model import checkpoint, surgery, teach
from toolchain.model.anatomy import layers_of
from toolchain.model.encoded import collate, encode, logits
from toolchain.model.source import Shape
from toolchain.model.train import TrainConfig

FAMILIES = ("bert", "roberta", "albert")
TRAINING = TrainConfig(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)
EVERYTHING = dict.fromkeys(inner_losses.KINDS, 1.0)


def lesson(student: Any, teacher: Any, family: str, mapping: Sequence[int], **weights: float) -> inner_losses.Lesson:
    tokenizer = checkpoint.load_tokenizer(classifier_folder(family))
    ids = torch.arange(tokenizer.backend_tokenizer.get_vocab_size())
    reads = checkpoint.model_inputs(teacher, tokenizer)
    return inner_losses.Lesson(student, teacher, mapping, weights, ids, reads, 17)


def batch(family: str, indices: Sequence[int]) -> dict[str, Any]:
    folder = classifier_folder(family)
    tokenizer, model = checkpoint.load_tokenizer(folder), checkpoint.load_model(folder)
    encoded = encode(tokenizer, sentences().train, 32, checkpoint.model_inputs(model, tokenizer))
    return collate(encoded, indices, "cpu")


def inside(made: inner_losses.Lesson, given: dict[str, Any]) -> float:
    with torch.no_grad():
        return float(made.loss(_nothing)(made.student, given))


def _nothing(model: Any, given: dict[str, Any]) -> Any:
    """A loss of answers that is 0, and has a gradient."""
    return model(**_inputs(given)).logits.sum() * 0


def _inputs(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "labels"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", inner_losses.KINDS)
def test_a_teacher_that_is_the_student_itself_has_nothing_to_teach(family: str, kind: str) -> None:
    one, other = (checkpoint.load_model(classifier_folder(family)) for _ in range(2))
    made = lesson(one, other, family, [0, 1], **{kind: 1.0})
    assert inside(made, batch(family, range(8))) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():  # the second layer's and the table's weights, so that each kind has a difference to see
        for name, weight in other.named_parameters():
            if weight.ndim == 2:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05)
    assert inside(made, batch(family, range(8))) > 1e-4


@pytest.mark.parametrize("kind", inner_losses.KINDS)
def test_padding_has_no_part_in_it(kind: str) -> None:
    student, teacher = checkpoint.load_model(classifier_folder()), checkpoint.load_model(classifier_folder())
    surgery.keep_neurons(student, layers_of(student)[0], range(64))
    with torch.no_grad():
        student.bert.embeddings.word_embeddings.weight.mul_(1.5)
    made = lesson(student, teacher, "bert", [0, 1], **{kind: 1.0})
    short = batch("bert", [5])  # one word
    padded = {name: torch.nn.functional.pad(value, (0, 9)) for name, value in short.items() if name != "labels"}
    assert inside(made, {**padded, "labels": short["labels"]}) == pytest.approx(inside(made, short), rel=1e-4)


def test_what_is_weighted_with_zero_is_not_computed_and_weights_scale() -> None:
    student, teacher = checkpoint.load_model(classifier_folder()), checkpoint.load_model(classifier_folder())
    surgery.keep_layers(student, [1])
    given = batch("bert", range(8))
    single = {kind: inside(lesson(student, teacher, "bert", [1], **{kind: 1.0}), given) for kind in inner_losses.KINDS}
    both = lesson(student, teacher, "bert", [1], hidden=2.0, attention=0.5, relations=0.0)
    assert set(both.weights) == {"hidden", "attention"}
    assert inside(both, given) == pytest.approx(2 * single["hidden"] + 0.5 * single["attention"], rel=1e-5)


def test_other_widths_and_numbers_of_heads_are_compared_and_the_projection_leaves_with_the_lesson() -> None:
    student, teacher = checkpoint.load_model(classifier_folder()), checkpoint.load_model(classifier_folder())
    surgery.keep_heads(student, layers_of(student)[0], [0])
    surgery.keep_hidden(student, range(48))
    names = {name for name, _ in student.named_parameters()}
    made = lesson(student, teacher, "bert", [0, 1], **EVERYTHING)
    added = {name for name, _ in student.named_parameters()} - names
    assert added == {f"{inner_losses.PROJECTIONS}.{place}.weight" for place in ("embeddings", "0", "1")}
    made.loss(_nothing)(student, batch("bert", range(4))).backward()
    for name, parameter in student.named_parameters():
        if name in added or "query" in name:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    made.end()
    assert {name for name, _ in student.named_parameters()} == names
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())


def test_layers_are_mapped_evenly_and_the_last_learns_from_the_last() -> None:
    assert inner_losses.spread(3, 6) == (1, 3, 5)
    assert inner_losses.spread(6, 12) == (1, 3, 5, 7, 9, 11)
    assert inner_losses.spread(4, 6)[-1] == 5
    assert inner_losses.spread(6, 6) == tuple(range(6))
    assert distill._kept(distill.Config(layers=3), 6) == (0, 2, 4)
    assert distill._kept(distill.Config(layers=(1, 5)), 6) == (1, 5)
    assert inner_losses.relation_heads(384, 312) == 12
    assert inner_losses.relation_heads(32, 48) == 8


def test_tokens_are_found_by_what_they_say_and_other_tokens_are_refused() -> None:
    bert, roberta = (checkpoint.load_tokenizer(classifier_folder(family)) for family in ("bert", "roberta"))
    texts = sentences().train.texts
    assert inner_losses.token_ids(bert, bert, texts, 32).tolist() == list(range(len(bert.get_vocab())))
    with pytest.raises(ModelError, match=r"cut 'a warm and funny film.*' into different tokens") as caught:
        inner_losses.token_ids(bert, roberta, texts, 32)
    assert "losses: {labels: …, logits: …}" in caught.value.hint


def test_several_teachers_answers_are_averaged_in_the_students_order_of_classes(tmp_path: Path) -> None:
    values = [np.array([[2.0, 0.0], [0.0, 1.0]], np.float32), np.array([[-1.0, 3.0], [0.0, 1.0]], np.float32)]
    given = []
    for number, logits_ in enumerate(values):
        (tmp_path / str(number)).mkdir()
        teach.write(tmp_path / str(number), logits_, ("negative", "positive"))
        given.append(Teaching(tmp_path, tmp_path / str(number)))
    data = dataclasses.replace(sentences(), labels=("positive", "negative"))
    asked = Context(work=tmp_path, seed=17, threads=1, dataset=lambda: data, teachers=tuple(given))
    found = np.array(distill._answers(tmp_path, distill.Config(temperature=4.0), asked)) / 4
    softened = np.exp(found) / np.exp(found).sum(1, keepdims=True)
    wanted = np.mean([np.exp(v / 4) / np.exp(v / 4).sum(1, keepdims=True) for v in values], axis=0)
    assert softened == pytest.approx(wanted[:, ::-1], rel=1e-5)


def distilled(folder: Path, family: str = "bert", **settings: Any) -> tuple[Path, dict[str, Any]]:
    source, out = classifier_folder(family), folder / "out"
    for made in (out, folder / "work"):
        made.mkdir(parents=True, exist_ok=True)
    given = taught(context(folder / "work"), source)
    return out, distill.apply(source, out, distill.Config(**{"finetune": TRAINING, **settings}), given)


def test_a_student_of_answers_alone_comes_nearer_to_its_teacher(tmp_path: Path) -> None:
    def distance(folder: Path) -> float:
        model, tokenizer = checkpoint.load_model(folder), checkpoint.load_tokenizer(folder)
        data = encode(tokenizer, sentences().train, 32, checkpoint.model_inputs(model, tokenizer))
        return float(np.abs(np.array(logits(model, data, 1)) - teach.read(tmp_path / "work" / "answers")[0]).mean())

    training = dataclasses.replace(TRAINING, epochs=12)
    out, metrics = distilled(tmp_path, layers=1, losses=Losses(labels=0, logits=1), finetune=training)
    untrained = checkpoint.load_model(classifier_folder())
    surgery.keep_layers(untrained, [0])
    (tmp_path / "cut").mkdir()
    checkpoint.save_like(untrained, checkpoint.load_tokenizer(classifier_folder()), out, tmp_path / "cut")
    assert metrics["layers"] == 1
    assert metrics["before"]["layers"] == 2
    assert distance(out) < 0.75 * distance(tmp_path / "cut")


@pytest.mark.parametrize("stop", [1, 5])
def test_a_lesson_that_is_stopped_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    settings: dict[str, Any] = {"layers": 1, "losses": Losses(**EVERYTHING)}
    whole, _ = distilled(tmp_path / "whole", **settings)

    with monkeypatch.context() as patch:
        patch.setattr("toolchain.compress.shared.recovery.train", stopping_at(stop))
        with pytest.raises(KeyboardInterrupt):
            distilled(tmp_path / "again", **settings)
    out, metrics = distilled(tmp_path / "again", **settings)
    assert metrics["resumed_at"] == stop
    assert (whole / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layers": 3}, "layers: a student of 3 layers, from a model of 2"),
        ({"layers": (0, 2)}, "layers: there is no layer 2"),
        ({"layers": (1, 0)}, r"layers: \[1, 0\] are not in order"),
        ({"mapping": (0, 1, 1), "losses": Losses(hidden=1)}, "mapping: 3 layers of the teacher for the 2 of"),
        ({"mapping": (0, 2), "losses": Losses(hidden=1)}, "mapping: the teacher has no layer 2"),
    ],
)
def test_a_student_that_cannot_be_is_refused_by_the_config_alone(settings: dict[str, Any], says: str) -> None:
    refusal = distill.fits(distill.Config(**settings), Shape(2, 2))
    assert refusal is not None
    with pytest.raises(RecipeError, match=says):
        raise RecipeError(*refusal)


def test_a_mapping_beyond_the_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not map 2 layers of the student to the teacher's 2"):
        distilled(tmp_path, mapping=(0, 2), losses=Losses(hidden=1))


def test_losses_that_teach_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="neither labels nor logits"):
        Losses(labels=0, logits=0, hidden=1)
    with pytest.raises(ValueError, match="mapping: no loss compares layers"):
        distill.Config(mapping="last")


def test_softened_answers_weigh_with_the_square_of_the_temperature() -> None:
    class Fixed(torch.nn.Module):  # type: ignore[misc]
        def forward(self, **_: Any) -> Any:
            return type("Output", (), {"logits": torch.tensor([[1.0, -1.0]])})

    given = {"labels": torch.tensor([1]), "teacher": torch.tensor([[0.5, 2.0]])}
    for temperature in (1.0, 3.0):
        known, learned = (torch.softmax(x / temperature, -1) for x in (given["teacher"], torch.tensor([[1.0, -1.0]])))
        divergence = float((known * (known / learned).log()).sum())
        found = float(answers_loss("classification", temperature, labels=0, logits=0.5)(Fixed(), given))
        assert found == pytest.approx(0.5 * temperature**2 * divergence, rel=1e-5)
    hard = float(answers_loss("classification", 2.0, labels=1, logits=0)(Fixed(), given))
    assert hard == pytest.approx(2.1269, abs=1e-3)
