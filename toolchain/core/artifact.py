"""A published artifact: a folder, its manifest, and whether the two still agree."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core import disk, manifest
from toolchain.core.errors import DamagedError
from toolchain.core.manifest import MANIFEST

if TYPE_CHECKING:
    from toolchain.core.checked import Checked


def digest_of(files: Mapping[str, str]) -> str:
    """Return the SHA-256 over names and digests of files: of two folders of equal content it is equal."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A published artifact.

    Attributes:
        path: Its folder.
        manifest: What it is made of, from, by and where.
    """

    path: Path
    manifest: dict[str, Any] = field(compare=False)

    @property
    def key(self) -> str:
        """The key it is stored under."""
        return str(self.manifest["key"])

    @property
    def kind(self) -> str:
        """data, checkpoint, onnx, engine, evaluation, timing, sensitivity or answers."""
        return str(self.manifest["kind"])

    @property
    def metrics(self) -> dict[str, Any]:
        """What the technique reported of its work: what a second run reports too, and what was observed meanwhile."""
        return {**self.manifest.get("observed", {}), **self.manifest["metrics"]}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and digests of its files: equal content, equal digest."""
        return digest_of({name: entry["sha256"] for name, entry in self.manifest["files"].items()})

    @cached_property
    def statement(self) -> str:
        """SHA-256 of what the manifest states of the result: what children record."""
        return manifest.statement(self.manifest)

    @property
    def size_bytes(self) -> int:
        """Bytes of its files, the manifest aside."""
        return sum(int(entry["bytes"]) for entry in self.manifest["files"].values())

    def problems(self) -> list[str]:
        """What differs between the files on disk and the manifest; empty when nothing does."""
        return self.changes() + self.strangers()

    def strangers(self) -> list[str]:
        """Which files and links of its folder the manifest does not name."""
        extra = {name for name in disk.files(self.path) if name != MANIFEST} - set(self.manifest["files"])
        return [f"{self.path / name}: not in the manifest" for name in sorted(extra)]

    def changes(self, checked: Checked | None = None) -> list[str]:
        """Which of the manifest's files are missing or differ from it.

        Args:
            checked: Files that were compared before, which are not read again; gets those that are compared now.
        """
        found = []
        for name, entry in self.manifest["files"].items():
            path, facts = self.path / name, self.facts(name)
            place = f"{self.kind}/{self.key}/{name}"
            if facts is None:
                wrong = "missing" if not os.path.lexists(path) else "not a regular file: links are not followed"
                found.append(f"{path}: {wrong}")
            elif facts.st_size != entry["bytes"]:
                found.append(f"{path}: {facts.st_size} bytes, the manifest says {entry['bytes']}")
            elif checked is not None and checked.holds(place, facts, entry["sha256"]):
                continue
            elif digest(path) != entry["sha256"]:
                found.append(f"{path}: its content has changed (SHA-256 differs from the manifest)")
            elif checked is not None and (after := self.facts(name)):
                checked.note(place, facts, after, entry["sha256"])
        return found

    def facts(self, name: str) -> os.stat_result | None:
        """Return the facts of one of its files; None where it, or a folder that it lies in, is missing or a link."""
        above = list((self.path / name).relative_to(self.path).parents)[:-1]
        if not all(disk.is_folder(self.path / folder) for folder in above):
            return None
        return disk.regular(self.path / name)


def copied(folder: Path) -> Artifact | None:
    """Return the artifact that a folder from anywhere is, or None where it has no manifest of ours.

    Raises:
        DamagedError: It has one that is damaged.
    """
    if disk.regular(folder / MANIFEST) is None:
        return None
    try:
        return Artifact(folder, manifest.read(folder))
    except DamagedError:
        if manifest.is_foreign(folder):
            return None
        raise


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
