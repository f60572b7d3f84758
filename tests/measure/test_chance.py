from __future__ import annotations

import pytest

from toolchain import kinds
from toolchain.measure import chance

KIND = kinds.get("classification")


@pytest.mark.parametrize(
    ("correct", "examples", "labels", "asks"),
    [(29, 100, 2, True), (45, 100, 2, False), (19, 100, 3, True), (30, 100, 3, False), (0, 2, 2, False)],
)
def test_labels_are_doubted_where_chance_does_not_explain_the_accuracy(
    correct: int, examples: int, labels: int, asks: bool
) -> None:
    # Wilson's 95 % intervals end at 0.385, 0.548, 0.278, 0.396 and 0.658.
    names = ["no", "yes", "maybe"][:labels]
    assert bool(chance.note(KIND, correct, examples, names)) == asks


def test_the_question_shows_how_two_labels_are_swapped() -> None:
    note = chance.note(KIND, 20, 100, ["no", "yes"])
    assert note.startswith("accuracy on dev is below the 50 % of guessing among 2 labels")
    assert "--set adopt.labels='{no: yes, yes: no}' swaps them" in note
