from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolchain.core import manifest
from toolchain.core.store import Artifact, Store, digest, key_of
from toolchain.core.verify import verify


def _make(store: Store, kind: str, parents: list[Artifact], text: str = "", again: bool = False) -> Artifact:
    parts = {"stage": kind, "inputs": [parent.digest for parent in parents]}
    with store.claim(kind, key_of(parts), again=again) as claim:
        assert claim is not None
        (claim.out / "file").write_text(text or kind)
        facts = {
            "parts": parts, "parents": [parent.key for parent in parents], "metrics": {"score": 0.5},
            "parent_digests": {parent.key: parent.statement for parent in parents},
        }  # fmt: skip
        return store.publish(claim, facts)


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Store, list[Artifact]]:
    """A checkpoint, its graph, the graph's engine, and the engine's evaluation."""
    store = Store(tmp_path / "store")
    made: list[Artifact] = []
    for kind in ("checkpoint", "onnx", "engine", "evaluation"):
        made.append(_make(store, kind, made[-1:]))
    return store, made


def _rewrite(artifact: Artifact, change: Callable[[dict[str, Any]], object], *, careful: bool = False) -> None:
    record = json.loads((artifact.path / "manifest.json").read_text("utf-8"))
    change(record)
    if careful:
        record["seal"] = manifest.seal(record)
    (artifact.path / "manifest.json").write_text(json.dumps(record), "utf-8")


def _swap(made: list[Artifact]) -> None:
    """Swap the folders of two artifacts of a kind."""
    second = made[0].path.with_name("1" * 32)
    shutil.copytree(made[0].path, second)
    made[0].path.rename(second.with_name("2" * 32))
    second.rename(made[0].path)


def _replace_file(artifact: Artifact) -> None:
    (artifact.path / "file").write_text("other")
    entry = {"sha256": digest(artifact.path / "file"), "bytes": 5}
    _rewrite(artifact, lambda record: record["files"].update(file=entry), careful=True)


def _move(artifact: Artifact, key: str) -> None:
    _rewrite(artifact, lambda record: record.update(key=key), careful=True)
    artifact.path.rename(artifact.path.with_name(key))


def _link(artifact: Artifact) -> None:
    (artifact.path / "file").rename(artifact.path.parents[2] / "file")
    (artifact.path / "file").symlink_to(artifact.path.parents[2] / "file")


def _downgrade(artifact: Artifact) -> None:
    _rewrite(artifact, lambda record: [record.pop(name) for name in ("format", "seal", "replaced")])


#: Name → a change of a store, and a part of what is said of it.
CHANGES: dict[str, tuple[Callable[[list[Artifact]], object], str]] = {
    "swapped folders": (_swap, "and its folder is"),
    "key": (lambda made: _rewrite(made[0], lambda r: r.update(key="f" * 32)), "and its folder is"),
    "key and folder": (lambda made: _move(made[0], "f" * 32), "its parts give the key"),
    "kind": (lambda made: _rewrite(made[0], lambda r: r.update(kind="onnx")), "and it lies in checkpoint/"),
    "metrics": (lambda made: _rewrite(made[3], lambda r: r["metrics"].update(score=0.9)), "its seal does not fit"),
    "metrics and seal": (
        lambda made: _rewrite(made[2], lambda r: r["metrics"].update(score=0.9), careful=True), "has changed",
    ),
    "parents": (lambda made: _rewrite(made[1], lambda r: r.update(parents=[]), careful=True), "which is no parent"),
    "file": (lambda made: (made[3].path / "file").write_text("evaluatioN"), "its content has changed"),
    "file and hash": (lambda made: _replace_file(made[1]), "has changed"),
    "seal taken out": (lambda made: _downgrade(made[3]), "has no seal"),
    "manifest deleted": (lambda made: (made[3].path / "manifest.json").unlink(), "it has no manifest"),
    "artifact deleted": (lambda made: shutil.rmtree(made[1].path), "which is not in the store"),
    "link": (lambda made: _link(made[3]), "is no regular file"),
    "stranger in an artifact": (lambda made: (made[3].path / "x").touch(), "not in the manifest"),
    "link in an artifact": (lambda made: (made[3].path / "x").symlink_to("/"), "not in the manifest"),
    "stranger beside artifacts": (lambda made: (made[3].path.parent / "x").touch(), "it is no artifact"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_a_store_is_seen(chain: tuple[Store, list[Artifact]], name: str) -> None:
    store, made = chain
    assert verify(store).problems == {}
    change, said = CHANGES[name]
    change(made)
    after = verify(Store(store.root))
    assert said in "\n".join(line for lines in after.problems.values() for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: shutil.rmtree(made[3].path),
        lambda made: _rewrite(made[3], lambda r: r["metrics"].update(score=0.9), careful=True),
        lambda made: _rewrite(made[0], lambda r: r.update(started="2001"), careful=True),
    ],
    ids=["the last artifact removed", "the last artifact written anew", "an observation written anew"],
)
def test_what_only_the_root_shows(
    chain: tuple[Store, list[Artifact]], change: Callable[[list[Artifact]], object]
) -> None:
    store, made = chain
    before = verify(store)
    change(made)
    after = verify(Store(store.root))
    assert after.problems == {}
    assert after.root != before.root


def test_what_was_made_again_is_no_change(chain: tuple[Store, list[Artifact]]) -> None:
    store, made = chain
    again = _make(store, "checkpoint", [], again=True)
    assert again.manifest["replaced"] == []
    assert verify(store).problems == {}
    other = _make(store, "checkpoint", [], "another", again=True)
    assert other.manifest["replaced"] == [made[0].statement]
    found = verify(store)
    assert found.problems == {}
    assert [f"{made[1].path}: made from an earlier checkpoint" in note for note in found.notes] == [True]
