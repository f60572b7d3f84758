"""What another machine trained, taken into this store: train where the GPU is, measure where the engine will run.

A training's key holds the versions of the libraries that it ran with, which differ between machines. What is taken in
stands under the key that it would have here, and its manifest keeps the machine, the versions and the key that it had
there; its content is checked against it byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolchain.core.errors import StoreError
from toolchain.core.files import copy_files
from toolchain.core.store import Artifact, Store, key_of
from toolchain.pipeline import keys

#: What takes long to make and is the same everywhere: augmented texts, weights, and a teacher's answers.
KINDS = ("data", "checkpoint", "answers")

#: What of a manifest belongs to the store that it lies in.
_OWN = {"format", "key", "kind", "files", "seal", "replaced", "parent_digests"}


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
    parts = {artifact.key: _parts(artifact) for artifact in trained}
    here = {key: key_of(own) for key, own in parts.items()}
    # Whatever is learned from comes first, so that what learned from it can record its digest.
    for artifact in sorted(trained, key=lambda each: str(each.manifest.get("started", ""))):
        other.check(artifact)
        yield _take(artifact, store, parts[artifact.key], here)


def _parts(artifact: Artifact) -> dict[str, Any]:
    """What decides the artifact's key, with the versions of the libraries that are installed here.

    Raises:
        StoreError: One is missing, and no run here would ask for the artifact.
    """
    there = artifact.manifest["parts"].get("libraries", {})
    here = {name: keys.installed(name) for name in there}
    missing = [name for name, version in here.items() if version == "missing" != there[name]]
    if missing:
        raise StoreError(
            f"{artifact.manifest['label']} was made with {', '.join(missing)}, not installed here, where it would be "
            "made anew, and not be found",
            "pip install 'toolchain[torch]'",
        )
    return dict(artifact.manifest["parts"]) | ({"libraries": here} if there else {})


def _take(artifact: Artifact, store: Store, parts: Mapping[str, Any], here: Mapping[str, str]) -> tuple[Artifact, bool]:
    """The artifact here, and whether it is new.

    Args:
        artifact: Of the other store.
        store: This one.
        parts: What decides its key here.
        here: Each key of the other store's and what it is here.
    """
    key = here[artifact.key]
    found = store.find(artifact.kind, key)
    if found:
        return found, False
    with store.claim(artifact.kind, key) as claim:
        if claim is None:
            raise StoreError(f"another process makes {artifact.kind} {key[:12]}", "run again when it has ended")
        copy_files(artifact.path, artifact.manifest["files"], claim.out, StoreError)
        kept = {name: value for name, value in artifact.manifest.items() if name not in _OWN}
        kept["parents"] = [here.get(parent, parent) for parent in artifact.manifest["parents"]]
        there = {parent: found for parent in kept["parents"] for kind in KINDS if (found := store.find(kind, parent))}
        kept["parent_digests"] = {parent: found.statement for parent, found in there.items()}
        origin = {"key": artifact.key, "libraries": artifact.manifest["parts"].get("libraries", {})}
        return store.publish(
            claim, {**kept, "parts": parts, "taken_from": artifact.manifest.get("taken_from", origin)}
        ), True
