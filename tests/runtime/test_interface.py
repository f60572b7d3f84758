from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolchain.core.errors import ModelError
from toolchain.runtime.interface import Interface, read_interface

GOOD = {"labels": ["no", "yes"], "max_length": 128, "pad_id": 0, "pad_type_id": 0, "pair": False}


def test_an_interface_is_read(tmp_path: Path) -> None:
    (tmp_path / "interface.json").write_text(json.dumps({**GOOD, "inputs": ["input_ids"], "dialect": "qdq"}))
    assert read_interface(tmp_path) == Interface(("no", "yes"), 128, 0, 0, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, "labels is"),
        ({"labels": "no,yes"}, "labels is"),
        ({"labels": ["no", "no"]}, "names a class twice"),
        ({"max_length": 2}, "max_length is 2"),
        ({"max_length": True}, "max_length is True"),
        ({"pad_id": -1}, "pad_id is -1"),
        ({"pad_type_id": None}, "pad_type_id is None"),
        ({"pair": "no"}, "pair is 'no'"),
    ],
)
def test_a_value_that_is_not_valid_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "interface.json").write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ModelError, match=message):
        read_interface(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "interface.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"interface\.json"):
        read_interface(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"interface\.json is missing"):
        read_interface(tmp_path)
