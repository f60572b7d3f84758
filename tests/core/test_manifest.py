from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.test_store import KEY, _publish
from toolchain.core import manifest
from toolchain.core.errors import DamagedError, StoreError
from toolchain.core.store import Artifact, Store


def _rewrite(artifact: Artifact, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as somebody would who knows how its seal is made."""
    record = json.loads((artifact.path / "manifest.json").read_text("utf-8"))
    change(record)
    record["seal"] = manifest.seal(record)
    (artifact.path / "manifest.json").write_text(json.dumps(record), "utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "../../victim"}, "key: allowed are 32 hexadecimal digits, not '../../victim'"),
        ({"key": "f" * 32}, f"key is '{'f' * 32}', and its folder is {KEY}"),
        ({"kind": "engine"}, "kind is 'engine', and it lies in onnx/"),
        ({"kind": "victim"}, "kind: allowed are data, checkpoint"),
        ({"parents": ["../x"]}, "parents.0: allowed are 32 hexadecimal digits"),
        ({"parents": [1]}, "parents.0: Input should be a valid string, not 1"),
        ({"metrics": []}, "metrics: Input should be"),
        ({"parts": {"config": 1}}, "parts.config: Input should be"),
        ({"unknown": 1}, "unknown: Extra inputs are not permitted"),
        ({"format": 3}, "format: Input should be 1 or 2"),
        ({"seal": None}, "it has no seal"),
        ({"seal": "0" * 64}, "its seal does not fit"),
        ({"metrics": {"nodes": 4}}, "its seal does not fit"),
        (
            {"files": {"model.onnx": {"sha256": "0" * 63, "bytes": 7}}},
            "sha256: allowed are 64 hexadecimal digits",
        ),
        ({"files": {"model.onnx": {"sha256": "0" * 64, "bytes": "7"}}}, "bytes: Input should be a valid integer"),
        *(
            ({"files": {name: {"sha256": "0" * 64, "bytes": 7}}}, "allowed are files inside of its folder")
            for name in ("../x", "/etc/passwd", "a//b", "./a", "a/..", "a\\b", "c:d", "a\x1b[2J", "a\u202eb")
        ),
    ],
)
def test_a_manifest_that_does_not_keep_to_the_schema_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    store = Store(tmp_path)
    path = _publish(store).path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DamagedError) as caught:
        store.find("onnx", KEY)
    assert said in caught.value.message
    assert str(path) in caught.value.message


def test_a_manifest_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = _publish(store).path / "manifest.json"
    record = json.loads(path.read_text())
    for name in ("format", "seal", "replaced", "duration_s", "started", "label", "environment"):
        record.pop(name, None)
    path.write_text(json.dumps(record))
    found = store.find("onnx", KEY)
    assert found is not None
    assert found.metrics == {"nodes": 3}
    assert (found.manifest["duration_s"], found.manifest["label"]) == (0.0, "")


def test_a_manifest_that_is_a_pipe_a_link_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    path = _publish(store).path / "manifest.json"
    elsewhere = path.rename(tmp_path / "manifest.json")
    makers: list[Callable[[], object]] = [
        lambda: os.mkfifo(path), lambda: path.symlink_to(elsewhere), path.mkdir,
    ]  # fmt: skip
    for make in makers:
        make()
        with pytest.raises(DamagedError, match=r"not a (regular )?file"):
            store.find("onnx", KEY)
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_manifest_is_bounded_in_size_and_depth(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = _publish(store).path / "manifest.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DamagedError, match="damaged"):
        store.find("onnx", KEY)
    with path.open("wb") as file:
        file.truncate(manifest.MOST_BYTES + 1)
    with pytest.raises(DamagedError, match=r"16,777,217 bytes; at most 16,777,216 are read"):
        store.find("onnx", KEY)


def test_gc_removes_nothing_outside_of_the_store(tmp_path: Path) -> None:
    """A manifest with the key ``../../victim`` made ``gc --all`` delete ``victim.removed`` beside the store."""
    store = Store(tmp_path / "store")
    first, second = _publish(store, "1" * 32), _publish(store, "2" * 32)
    victims = [tmp_path / "victim", tmp_path / "victim.removed"]
    for victim in victims:
        victim.mkdir()
        (victim / "precious").write_text("x")
    _rewrite(first, lambda record: record.update(key="../../victim"))
    (tmp_path / "outside" / ("3" * 32)).mkdir(parents=True)
    (tmp_path / "outside" / ("3" * 32) / "manifest.json").write_bytes((second.path / "manifest.json").read_bytes())
    (store.root / "engine").symlink_to(tmp_path / "outside")
    (store.root / ".partial" / "work").mkdir(parents=True)
    (store.root / ".partial" / "work" / "link").symlink_to(victims[0])
    damaged: list[str] = []
    gone, _ = store.gc([], damaged=damaged)
    assert [artifact.key for artifact in gone] == [second.key]
    assert [line.rpartition(":")[0] for line in damaged[:1]] != []
    assert all((victim / "precious").is_file() for victim in victims)
    assert (tmp_path / "outside" / ("3" * 32) / "manifest.json").is_file()
    assert first.path.is_dir()


def test_a_link_in_an_artifact_is_neither_read_nor_published_through(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = _publish(store)
    copy = (artifact.path / "model.onnx").rename(tmp_path / "model.onnx")
    (artifact.path / "model.onnx").symlink_to(copy)
    with pytest.raises(DamagedError, match="is no regular file"):
        store.find("onnx", KEY)
    assert artifact.changes() == [f"{artifact.path}/model.onnx: not a regular file: links are not followed"]
    assert not list((store.root / ".partial").iterdir())
    (store.root / ".partial").rmdir()
    (store.root / ".partial").symlink_to(tmp_path)
    for work in (lambda: _publish(store, "1" * 32), lambda: store.gc([], damaged=[])):
        with pytest.raises(StoreError, match="partial is a link, and the store has none"):
            work()
    store.sweep()
    (store.root / ".partial").unlink()
    (store.root / "engine").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="engine is a link, and the store has none"):
        _publish(store, kind="engine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "store"]
