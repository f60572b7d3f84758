"""What another machine trained, taken into this store: train where the GPU is, measure where the engine will run.

A training's key holds the versions of the libraries that it ran with, which differ between machines. What is taken in
stands under the key that it would have here, and its manifest keeps the machine, the versions and the key that it had
there; its content is checked against it byte by byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from toolchain.core.errors import StoreError
from toolchain.core.store import Artifact, Store, key_of
from toolchain.pipeline import keys

#: What takes long to make and is the same everywhere: augmented texts, weights, and a teacher's answers.
KINDS = ("data", "checkpoint", "answers")


def take(source: Path, store: Store) -> Iterator[tuple[Artifact, bool]]:
    """Copies what was trained in another store into this one.

    Args:
        source: The other store's folder, or a copy of it.
        store: Where it goes.

    Yields:
        Each artifact as it stands here, and whether it is new.

    Raises:
        StoreError: There is no such store, nothing in it was trained, or an artifact differs from its manifest.
    """
    if not source.is_dir():
        raise StoreError(f"{source} is no folder", "give another store's folder: a copy of its artifacts/")
    other = Store(source)
    trained = [artifact for artifact in other.artifacts() if artifact.kind in KINDS and "parts" in artifact.manifest]
    if not trained:
        raise StoreError(
            f"{source} has no {', '.join(KINDS[:-1])} or {KINDS[-1]}",
            "give another store's folder, such as a copy of its artifacts/",
        )
    for artifact in trained:
        other.check(artifact)
        yield _take(artifact, store)


def _take(artifact: Artifact, store: Store) -> tuple[Artifact, bool]:
    """The artifact here, and whether it is new."""
    parts = dict(artifact.manifest["parts"])
    there = parts.get("libraries", {})
    parts["libraries"] = {name: keys.installed(name) for name in there}
    key = key_of(parts)
    found = store.find(artifact.kind, key)
    if found:
        return found, False
    with store.claim(artifact.kind, key) as claim:
        if claim is None:
            raise StoreError(f"another process makes {artifact.kind} {key[:12]}", "run again when it has ended")
        for name in artifact.manifest["files"]:
            target = claim.out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.path / name, target)
        kept = {name: value for name, value in artifact.manifest.items() if name not in ("key", "kind", "files")}
        origin = {"key": artifact.key, "libraries": there}
        return store.publish(
            claim, {**kept, "parts": parts, "taken_from": artifact.manifest.get("taken_from", origin)}
        ), True
