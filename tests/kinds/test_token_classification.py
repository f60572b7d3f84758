"""Token classification: a tag for each word, entities of tags, and the figures that they are judged by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from toolchain import kinds
from toolchain.core.errors import ModelError
from toolchain.kinds.shared.prediction import Entity
from toolchain.model.tokens import Tokens

TAGS = ("O", "B-X", "I-X", "B-Y", "I-Y")
KIND = kinds.get("token_classification", TAGS)

#: Tags of one text, and its entities: type, first and last word. By seqeval 1.2.2's get_entities.
SEQEVAL: dict[str, list[tuple[str, int, int]]] = {
    "B-X I-X O B-X": [("X", 0, 1), ("X", 3, 3)],
    "O I-X I-X O": [("X", 1, 2)],
    "I-X B-X I-X": [("X", 0, 0), ("X", 1, 2)],
    "B-X I-Y I-Y": [("X", 0, 0), ("Y", 1, 2)],
    "B-X B-X": [("X", 0, 0), ("X", 1, 1)],
    "I-X O I-X": [("X", 0, 0), ("X", 2, 2)],
    "B-X E-X S-X S-Y": [("X", 0, 1), ("X", 2, 2), ("Y", 3, 3)],
    "E-X I-X": [("X", 0, 0), ("X", 1, 1)],
    "O E-X E-X": [("X", 1, 1), ("X", 2, 2)],
    "S-X I-X": [("X", 0, 0), ("X", 1, 1)],
    "B-X I-X B-Y O I-Y": [("X", 0, 1), ("Y", 2, 2), ("Y", 4, 4)],
}


def answered(*texts: str, tags: tuple[str, ...] = TAGS, sure: float = 5.0) -> Any:
    """Answers that give each word of these texts of tags its tag; word k is the characters 2k and 2k + 1."""
    rows = [text.split() for text in texts]
    answers = np.zeros((len(rows), max(map(len, rows)), 2 + len(tags)), np.float32)
    for answer, row in zip(answers, rows, strict=True):
        for word, tag in enumerate(row):
            answer[word, :2] = 2 * word, 2 * word + 1
            answer[word, 2 + tags.index(tag)] = sure
    return answers


def golden(*texts: str, tags: tuple[str, ...] = TAGS) -> list[list[tuple[int, int, int]]]:
    """The gold answers of these texts of tags."""
    return [[(2 * k, 2 * k + 1, tags.index(tag)) for k, tag in enumerate(text.split())] for text in texts]


@pytest.mark.parametrize("text", SEQEVAL)
def test_entities_are_those_of_seqeval(text: str) -> None:
    tags = tuple(dict.fromkeys(["O", *text.split()]))
    (prediction,) = kinds.get("token_classification", tags).decode(KIND.activate(answered(text, tags=tags)), tags)
    found = [(entity.type, entity.start // 2, (entity.end - 1) // 2) for entity in prediction.entities or ()]
    assert found == SEQEVAL[text]


def test_bilou_is_read_as_iobes() -> None:
    tags = ("O", "B-X", "I-X", "L-X", "U-X")
    (prediction,) = KIND.decode(KIND.activate(answered("B-X L-X U-X U-X O", tags=tags)), tags)
    assert [(entity.start, entity.end) for entity in prediction.entities or ()] == [(0, 3), (4, 5), (6, 7)]


def test_the_metric_is_the_f1_of_all_entities() -> None:
    gold = golden("B-X I-X O B-Y", "O O", "B-Y")
    scores = KIND.score(answered("B-X I-X O O", "B-X O", "B-Y"), gold)
    assert scores.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]  # right, wrong, missing
    assert KIND.combine(scores) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert KIND.combine(np.zeros((2, 3))) == 0  # no entity at all: seqeval gives 0 too
    counts = np.array([[2, 0, 1], [0, 3, 0]])
    assert KIND.resampled(scores, counts).tolist() == pytest.approx([2 * 3 / (2 * 3 + 0 + 2), 0])


def test_a_word_of_the_data_has_the_tag_of_the_models_word_at_its_beginning_and_o_without_one() -> None:
    answers = answered("B-X I-X O")  # the data have one word of characters 0 to 3, and one that was cut
    assert KIND.score(answers, [[(0, 3, 1), (4, 5, 0), (40, 44, 3)]]).tolist() == [[1, 0, 1]]


def test_answers_are_the_places_and_logits_of_first_tokens() -> None:
    rows = [
        Tokens([1, 5, 6, 7, 2], [0] * 5, words=[(1, 0, 6), (3, 7, 9)]),
        Tokens([1, 5, 2], [0] * 3, words=[(1, 0, 2)]),
    ]
    logits = np.arange(2 * 5 * 5, dtype=np.float32).reshape(2, 5, 5)
    answers = KIND.fold([0, 1], {"logits": logits}, rows)
    assert answers.shape == (2, 2, 7)
    assert answers[0, :, :2].tolist() == [[0, 6], [7, 9]]
    assert answers[0, 1, 2:].tolist() == logits[0, 3].tolist()
    assert not answers[1, 1].any()  # no word
    probabilities = KIND.activate(answers)
    assert probabilities[0, :, 2:].sum(axis=1) == pytest.approx([1, 1])
    assert not probabilities[1, 1].any()
    assert KIND.fold([], {"logits": np.zeros((0, 0, 5), np.float32)}, []).shape == (0, 0, 7)


def test_outputs_begin_with_the_first_token_where_the_padding_stands_on_the_left() -> None:
    outputs = {"logits": np.array([[[0.0], [1.0], [2.0]], [[3.0], [4.0], [5.0]]])}
    moved = kinds.from_first_token(KIND, outputs, [1, 3], "left")["logits"]
    assert moved[:, 0, 0].tolist() == [2, 3]
    assert kinds.from_first_token(KIND, outputs, [1, 3], "right")["logits"] is outputs["logits"]
    scores = {"logits": np.zeros((2, 5))}
    assert kinds.from_first_token(kinds.get("classification"), scores, [1, 3], "left") == scores


def test_answers_of_different_widths_are_joined_with_zeros() -> None:
    joined = kinds.joined([np.ones((2, 3, 4)), np.ones((1, 5, 4))])
    assert joined.shape == (3, 5, 4)
    assert joined.sum(axis=(1, 2)).tolist() == [12, 12, 20]


def test_examples_differ_by_their_entities_and_are_undecided_where_each_changed_word_is() -> None:
    one, other = answered("I-X O", "O O", "B-X O", "O O"), answered("B-X O", "O O", "B-Y O", "O B-X", sure=0.005)
    agreement = KIND.agree(one, other, decided=0.01)
    assert agreement.differs.tolist() == [False, False, True, True]  # I- at the beginning of an entity is as B-
    assert agreement.undecided.tolist() == [False, True, False, False]
    near = KIND.agree(answered("O O", sure=0.004), answered("O B-X", sure=0.005), decided=0.01)
    assert near.differs.tolist() == near.undecided.tolist() == [True]
    assert agreement.distance.tolist() == pytest.approx([5, 4.995, 5, 5], abs=1e-5)
    assert KIND.agree(one, kinds.padded(one, (4, 7))).differs.tolist() == [False] * 4


def test_the_margin_is_that_of_the_least_certain_word() -> None:
    answers = np.concatenate([answered("B-X O"), np.zeros((1, 2, 7), np.float32)])
    answers[0, 1, 2] = 0.5
    assert KIND.margin(KIND.activate(answers)).tolist() == pytest.approx([0.5, np.inf], abs=1e-5)


def test_losses_are_means_over_words() -> None:
    rows = [Tokens([1, 5, 6, 2], [0] * 4, words=[(1, 0, 1), (2, 2, 3)]), Tokens([1, 5, 2], [0] * 3, words=[(1, 0, 1)])]
    gold = [[(0, 1, 1), (2, 3, 0)], [(0, 1, 3)]]
    labels = KIND.targets(gold, rows, 4, "right")
    assert labels.tolist() == [[-100, 1, 0, -100], [-100, 3, -100, -100]]
    assert KIND.targets(gold, rows, 4, "left")[1].tolist() == [-100, -100, 3, -100]
    logits = torch.zeros((2, 4, 5))
    batch = {"labels": torch.tensor(labels)}
    assert float(KIND.loss({"logits": logits}, batch)) == pytest.approx(np.log(5))
    assert float(KIND.loss({"logits": logits}, batch, reduction="sum")) == pytest.approx(2 * np.log(5))
    answers = KIND.fold([0, 1], {"logits": np.ones((2, 4, 5), np.float32)}, rows)
    teacher = torch.tensor(KIND.taught(list(answers), rows, 4, "right"))
    assert torch.isnan(teacher[..., 0]).tolist() == [[True, False, False, True], [True, False, True, True]]
    assert float(KIND.soft_loss({"logits": logits}, teacher, batch, 2.0)) == pytest.approx(0, abs=1e-6)
    one, two = answered("B-X O"), answered("O O")
    softened = np.exp(KIND.blend([one, two], 1.0)[0, 0, 2:])
    assert softened == pytest.approx((KIND.activate(one)[0, 0, 2:] + KIND.activate(two)[0, 0, 2:]) / 2)
    with pytest.raises(ModelError, match="different words"):
        KIND.blend([one, kinds.padded(two, (3, 7))], 1.0)


def test_tags_are_put_into_the_order_of_a_model() -> None:
    assert KIND.reordered([[(0, 1, 2)]], [4, 3, 0, 1, 2]) == [[(0, 1, 0)]]
    with pytest.raises(ModelError, match=r"the data has the tags \[7\]"):
        KIND.reordered([[(0, 1, 7)]], [0, 1])
    answers = answered("B-X")
    assert KIND.relabelled(answers, [1, 0, 2, 3, 4])[0, 0].tolist() == [0, 1, 5, 0, 0, 0, 0]


def test_entities_have_their_text_place_and_probability() -> None:
    text = "in New York"
    answers = np.zeros((1, 3, 7), np.float32)
    answers[0, :, :2] = [[0, 2], [3, 6], [7, 11]]
    answers[0, 0, 2], answers[0, 1, 3], answers[0, 2, 4] = 9, 1, 2
    (prediction,) = KIND.decode(KIND.activate(answers), TAGS, [(text,)])
    sure = [np.exp(k) / (np.exp(k) + 4) for k in (1, 2)]
    (entity,) = prediction.entities or ()
    assert entity == Entity("X", "New York", 3, 11, entity.probability)
    assert entity.probability == pytest.approx(np.mean(sure), abs=1e-6)
