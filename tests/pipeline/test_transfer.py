from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import Result, call, tiny
from toolchain.core.errors import StoreError
from toolchain.core.manifest import sealed
from toolchain.core.store import Store, key_of
from toolchain.pipeline import keys, transfer


def _import(folder: Path, source: Path | str, *argv: str) -> Result:
    return call("import", str(source), "--store", "store", *argv, cwd=folder)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A store as another version of PyTorch would have left it: the keys of its trainings hold that version."""
    (tmp_path / "other").mkdir()
    tiny().copy(tmp_path / "other")
    (tmp_path / "other" / "tiny.yaml").rename(tmp_path / "tiny.yaml")
    store = tmp_path / "other" / "store"
    for folder in list((store / "checkpoint").iterdir()):
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        manifest["parts"]["libraries"]["torch"] = "2.0.0"
        manifest["key"] = key_of(manifest["parts"])
        (folder / "manifest.json").write_text(json.dumps(sealed(manifest)), "utf-8")
        folder.rename(folder.with_name(manifest["key"]))
    return store


@pytest.mark.slow
def test_what_another_version_trained_is_not_trained_again(tmp_path: Path, elsewhere: Path) -> None:
    before = next(Store(elsewhere).artifacts())
    assert before.kind == "checkpoint"
    taken = _import(tmp_path, elsewhere, "--json").json
    assert [(item["kind"], item["new"]) for item in taken] == [("checkpoint", True)]
    (artifact,) = Store(tmp_path / "store").artifacts()
    assert artifact.digest == before.digest
    assert artifact.manifest["environment"] == before.manifest["environment"]
    assert artifact.manifest["taken_from"] == {"key": before.key, "libraries": before.manifest["parts"]["libraries"]}
    assert [item["new"] for item in _import(tmp_path, elsewhere, "--json").json] == [False]

    told = call("explain", artifact.key, "--store", "store", "--json", cwd=tmp_path)
    assert told.code == 0
    assert [item["key"] for item in told.json["lineage"]] == [artifact.key]
    dry = call("run", "tiny.yaml", "--store", "store", "--dry-run", "--json", cwd=tmp_path).json
    assert [step["stage"] for step in dry["steps"] if step["status"] == "hit"] == ["finetune"]
    assert call("verify", "--store", "store", cwd=tmp_path).code == 0


def test_what_is_damaged_or_no_store_is_refused_and_nothing_is_taken(tmp_path: Path, elsewhere: Path) -> None:
    (weights,) = elsewhere.glob("checkpoint/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = _import(tmp_path, elsewhere)
    assert damaged.code == 1
    assert "SHA-256 differs" in damaged.stderr
    assert list(Store(tmp_path / "store").artifacts()) == []

    path = weights.parent / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    entry = manifest["files"]["model.safetensors"]
    for name in ("../../outside.txt", str(tmp_path / "outside.txt")):
        manifest["files"] = {name: entry}
        path.write_text(json.dumps(manifest), "utf-8")
        assert "allowed are files inside of its folder" in _import(tmp_path, elsewhere).stderr
        assert not list(tmp_path.rglob("outside.txt"))

    shutil.rmtree(elsewhere / "checkpoint")
    assert "has no data, checkpoint or answers" in _import(tmp_path, elsewhere).stderr
    assert "is no folder" in _import(tmp_path, "nowhere").stderr


def test_what_was_made_with_a_library_that_is_missing_here_is_refused(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "installed", lambda name: "missing" if name == "torch" else "1")
    with pytest.raises(StoreError, match="was made with torch, not installed here"):
        list(transfer.take(elsewhere, Store(tmp_path / "store")))


@pytest.mark.slow
def test_parents_that_were_taken_too_are_found_and_others_are_named(tmp_path: Path, elsewhere: Path) -> None:
    (source,) = (elsewhere / "checkpoint").iterdir()
    student = shutil.copytree(source, tmp_path / "student")
    manifest = json.loads((student / "manifest.json").read_text("utf-8"))
    manifest["parents"] = [source.name, "f" * 32]
    manifest["started"] = "2999-01-01T00:00:00Z"
    manifest["parts"]["config"] = {"another": 1}
    manifest["key"] = key_of(manifest["parts"])
    (student / "manifest.json").write_text(json.dumps(sealed(manifest)), "utf-8")
    student.rename(source.with_name(manifest["key"]))
    _import(tmp_path, elsewhere)
    taken = {a.manifest["taken_from"]["key"]: a for a in Store(tmp_path / "store").artifacts()}
    told = call("explain", taken[manifest["key"]].key, "--store", "store", "--json", cwd=tmp_path).json
    assert [item["key"] for item in told["lineage"]] == [taken[source.name].key, taken[manifest["key"]].key]
    assert told["absent"] == ["f" * 32]
    assert list(taken[manifest["key"]].manifest["parent_digests"]) == [taken[source.name].key]
    assert call("verify", "--store", "store", cwd=tmp_path).code == 0
