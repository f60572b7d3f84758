from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import Result, call, tiny
from toolchain.core.store import Store, key_of


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
        (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
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

    shutil.rmtree(elsewhere / "checkpoint")
    assert "has no data, checkpoint or answers" in _import(tmp_path, elsewhere).stderr
    assert "is no folder" in _import(tmp_path, "nowhere").stderr
