"""A safetensors file is held against its own header before any of its content is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.builders import weights
from toolchain.core.errors import ModelError
from toolchain.model import adopt, weights_file


def test_the_tensors_of_a_file_are_named_with_their_places(tmp_path: Path) -> None:
    weights(tmp_path / "w.safetensors", "a", "b", size=8)
    tensors = weights_file.tensors(tmp_path / "w.safetensors")
    assert {name: tensor["data_offsets"] for name, tensor in tensors.items()} == {"a": [0, 8], "b": [8, 16]}


@pytest.mark.parametrize(
    ("header", "content", "says"),
    [
        ("[]", b"", "the header is not a JSON object"),
        ("{", b"", "not valid JSON"),
        ('{"a": {}}', b"", "the header does not say where 'a' lies"),
        ('{"a": {"data_offsets": [4, 0]}}', b"0000", "the header does not say where 'a' lies"),
        ('{"a": {"data_offsets": [0, true]}}', b"0", "the header does not say where 'a' lies"),
        ('{"a": {"data_offsets": [0, 4]}}', b"000", "the header describes 43 bytes, and the file has 42"),
        ('{"a": {"data_offsets": [0, 4]}}', b"00000", "the header describes 43 bytes, and the file has 44"),
    ],
)
def test_a_file_that_is_not_what_its_header_says_is_refused(
    header: str, content: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + content)
    with pytest.raises(ModelError, match=says) as caught:
        weights_file.tensors(path)
    assert str(path) in caught.value.message


def test_a_file_too_short_for_its_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for content, says in ((b"weights", "requires a buffer of 8 bytes"), (b"\xff" * 16, "a header of 18,446,744")):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=says):
            weights_file.tensors(path)


def test_a_large_file_that_was_grown_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    folder.mkdir()
    weights(folder / "model.safetensors", "classifier.weight")
    os.truncate(folder / "model.safetensors", 20 * 2**30)
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    before = _bytes_read()
    with pytest.raises(ModelError, match="the header describes"):
        adopt.identity(adopt.Config(path=str(folder)))
    assert _bytes_read() - before < 2**28  # modules that were imported meanwhile, and not the file


def _bytes_read() -> int:
    """Return how many bytes this process has read."""
    return int(Path("/proc/self/io").read_text().split()[1])
