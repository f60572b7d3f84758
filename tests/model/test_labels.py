from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders import LABELS, sentences
from toolchain.core.errors import ModelError
from toolchain.model.labels import adopted_labels, dev_labels, match_labels, own_order


def test_unnamed_labels_are_taken_by_position() -> None:
    index, notes = match_labels(("LABEL_0", "LABEL_1"), ("no", "yes"), Path("engine"))
    assert index == [0, 1]
    assert notes == ["nobody named the model's labels (LABEL_0, LABEL_1): taken in the task's order as no, yes"]


def test_labels_are_matched_ignoring_case_where_that_is_one_to_one() -> None:
    index, notes = match_labels(("YES", "No"), ("no", "yes"), Path("engine"))
    assert index == [1, 0]
    assert notes == ["the model's labels are written otherwise than the task's: YES, No; matched ignoring case"]
    with pytest.raises(ModelError, match="was trained for the labels no, NO"):
        match_labels(("no", "NO"), ("no", "yes"), Path("engine"))


@pytest.mark.parametrize(
    ("own", "mapping", "labels"),
    [
        (("bad", "good"), {"bad": "negative", "good": "positive"}, ["negative", "positive"]),
        (("good", "negative"), {"good": "positive"}, ["positive", "negative"]),
        (("LABEL_0", "LABEL_1"), {"LABEL_0": "positive", "LABEL_1": "negative"}, ["positive", "negative"]),
        # A model without names is given the task's; a mapping of these swaps them.
        (("LABEL_0", "LABEL_1"), {"negative": "positive", "positive": "negative"}, ["positive", "negative"]),
        (("negative", "positive"), {"negative": "positive", "positive": "negative"}, ["positive", "negative"]),
    ],
)
def test_a_mapping_gives_the_model_s_labels_the_task_s_names(
    own: tuple[str, ...], mapping: dict[str, str], labels: list[str]
) -> None:
    assert adopted_labels(own, sentences(), mapping, Path("model"))[0] == labels


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"fine": "positive"}, "adopt.labels maps fine; model has the labels bad, good"),
        ({"bad": "positive", "good": "positive"}, "gives two labels one name: positive, positive"),
    ],
)
def test_a_mapping_of_other_labels_is_refused(mapping: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        adopted_labels(("bad", "good"), sentences(), mapping, Path("model"))


def test_dev_labels_are_counted_in_the_order_of_the_model(tmp_path: Path) -> None:
    data = sentences()
    (tmp_path / "interface.json").write_text(json.dumps({"labels": list(LABELS)}))
    assert dev_labels(tmp_path, data) == list(data.dev.labels)
    turned = replace(data, labels=tuple(reversed(LABELS)))
    assert dev_labels(tmp_path, turned) == [1 - label for label in data.dev.labels]


def test_every_split_is_counted_in_the_order_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "interface.json").write_text(json.dumps({"labels": list(LABELS)}))
    data = sentences()
    assert own_order(tmp_path, data) is data
    turned = own_order(tmp_path, replace(data, labels=tuple(reversed(LABELS))))
    assert turned.labels == LABELS
    for name in ("train", "dev", "test"):
        assert list(turned.split(name).labels) == [1 - label for label in data.split(name).labels]


def test_dev_labels_of_another_task_are_refused_with_both_lists(tmp_path: Path) -> None:
    (tmp_path / "interface.json").write_text(json.dumps({"labels": list(LABELS)}))
    with pytest.raises(ModelError, match="negative, positive; the task has bad, good"):
        dev_labels(tmp_path, replace(sentences(), labels=("bad", "good")))
