from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders import LABELS, sentences
from toolchain.core.errors import ModelError
from toolchain.model.labels import dev_labels, match_labels, own_order


def test_unnamed_labels_are_taken_by_position() -> None:
    index, notes = match_labels(("LABEL_0", "LABEL_1"), ("no", "yes"), Path("engine"))
    assert index == [0, 1]
    assert "by position" in notes[0]


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
