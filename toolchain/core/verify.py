"""Compares a whole store with itself: files with manifests, manifests with their place, children with parents.

What is seen without a root that was kept elsewhere: whatever does not fit a manifest, its seal, its folder, its key, or
what an artifact made from it recorded. An artifact that nothing was made from, removed with its folder or written anew
with a seal that fits, and a chain of which every manifest down to the last one was written anew, are seen by the root
alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toolchain.core import disk, manifest, traces
from toolchain.core.artifact import Artifact
from toolchain.core.errors import StoreError
from toolchain.core.manifest_format import FORMAT, KINDS
from toolchain.core.store import Store, key_of


@dataclass
class Findings:
    """What is wrong in a store.

    Attributes:
        artifacts: Everything that can be read.
        problems: Path of an artifact, or of what should be one → what is wrong with it.
        notes: What is as it should be, and a reader may want to know.
        root: SHA-256 over kind, key and manifest of every artifact; empty where only some were looked at.
    """

    artifacts: list[Artifact]
    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    root: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of the artifacts that can be read."""
        return sum(artifact.size_bytes for artifact in self.artifacts)


def verify(store: Store, chosen: Sequence[Artifact] | None = None) -> Findings:
    """Compare artifacts of a store, every byte.

    Args:
        store: The store.
        chosen: Those to look at; None is all, and gives the root.
    """
    known: dict[str, Artifact] = {}
    findings = Findings([])
    for path in _entries(store.root):
        try:
            artifact = store.find(path.parent.name, path.name) if disk.is_folder(path) else None
        except StoreError as error:
            findings.problems[str(path)] = [error.message]
            continue
        if artifact is None:
            what = "it has no manifest" if disk.is_folder(path) else "it is not a folder"
            findings.problems[str(path)] = [f"{path}: {what}: it is no artifact"]
            continue
        known[artifact.key] = artifact
    if chosen is None:
        chosen = list(known.values())
        findings.root = root_of(chosen, findings.problems)
        for path in traces.damaged(store.root):
            findings.problems[str(path)] = [f"{path}: it is not a traced graph, or is damaged; remove it: rm -r {path}"]
    else:
        findings.problems.clear()
    findings.artifacts = list(chosen)
    for artifact in chosen:
        wrong = [*artifact.problems(), *_own(artifact)]
        if artifact.path.resolve().parent.parent == store.root.resolve():  # a copy elsewhere has no parents beside it
            wrong += _chain(artifact, known, findings.notes)
        if wrong:
            findings.problems[str(artifact.path)] = wrong
    return findings


def root_of(artifacts: Sequence[Artifact], damaged: Mapping[str, object]) -> str:
    """Return one digest for a whole store: whatever is added, removed or changed gives another.

    Args:
        artifacts: Everything that can be read.
        damaged: Paths of what cannot.
    """
    lines = [f"{each.kind}/{each.key} {manifest.canonical(each.manifest)}" for each in artifacts]
    lines += [f"damaged {'/'.join(Path(path).parts[-2:])}" for path in damaged]
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def _entries(root: Path) -> Iterator[Path]:
    """Yield what lies where artifacts do; of a kind's folder that is none, that itself."""
    for kind in KINDS:
        folder = root / kind
        if os.path.lexists(folder) and not disk.is_folder(folder):
            yield folder
        elif folder.is_dir():
            yield from sorted(folder.iterdir())


def _own(artifact: Artifact) -> Iterator[str]:
    """Yield what a manifest says that cannot be."""
    record = artifact.manifest
    if record.get("format", 1) < FORMAT:
        yield f"{artifact.path}: its manifest has no seal: an earlier version wrote it, or it was taken out"
    if (key := key_of(record["parts"])) != artifact.key:
        yield f"{artifact.path}: its parts give the key {key}"


def _chain(artifact: Artifact, known: Mapping[str, Artifact], notes: list[str]) -> Iterator[str]:
    """Yield where an artifact does not fit what it was made from."""
    record = artifact.manifest
    recorded, inputs = record.get("parent_digests", {}), record["parts"].get("inputs")
    taken = record.get("taken_from") is not None
    for index, key in enumerate(record["parents"]):
        parent = known.get(key)
        if parent is None:
            if key in recorded or not taken:
                yield f"{artifact.path}: it was made from {key}, which is not in the store"
            continue
        was = recorded.get(key, parent.statement)
        if was != parent.statement and was in parent.manifest.get("replaced", []):
            notes.append(f"{artifact.path}: made from an earlier {parent.kind} {key[:12]}, which was made again since")
        elif was != parent.statement:
            yield f"{artifact.path}: it was made from another {parent.kind} {key[:12]}: {parent.path} has changed"
        elif isinstance(inputs, list) and len(inputs) == len(record["parents"]) and inputs[index] != parent.digest:
            yield f"{artifact.path}: its key names other files of {parent.kind} {key[:12]}: {parent.path} has changed"
