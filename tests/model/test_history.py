from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolchain.core.errors import ModelError
from toolchain.model import history


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert history.applied(tmp_path) == []
    assert history.origin(tmp_path) == {}
    entry = {"stage": "finetune", "technique": "finetune", "version": 3, "config": {"epochs": 1}, "seed": 17}
    value = {"techniques": [entry], "origin": {"source": "model", "digest": "ab"}}
    (tmp_path / history.HISTORY).write_text(json.dumps(value), "utf-8")
    assert history.applied(tmp_path) == [entry]
    assert history.origin(tmp_path) == value["origin"]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"techniques": 1453}, "techniques"), ({"techniques": [1.5]}, "techniques.0"),
        ({"techniques": [{"stage": ["finetune"]}]}, "techniques.0.stage"),
        ({"techniques": [{"config": "none"}]}, "techniques.0.config"), ({"origin": {"digest": 1}}, "origin.digest"),
    ],
)  # fmt: skip
def test_what_is_no_history_is_refused_by_place(tmp_path: Path, value: Any, place: str) -> None:
    (tmp_path / history.HISTORY).write_text(json.dumps(value), "utf-8")
    with pytest.raises(ModelError, match=f"is not what this program writes: {place}"):
        history.applied(tmp_path)
