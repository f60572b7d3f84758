"""The artifact store: content-addressed, locked, atomic; a folder with a manifest is complete by definition.

Layout::

    artifacts/<kind>/<key>/manifest.json …   published, never edited
    artifacts/.partial/<key>/out             what is being written
    artifacts/.partial/<key>/work            what survives a kill, to resume from
    artifacts/.partial/<key>.lock            held by the process that works on the key
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from toolchain.core import disk, host
from toolchain.core.errors import StoreError
from toolchain.core.log import logger

MANIFEST = "manifest.json"
KINDS = ("data", "checkpoint", "onnx", "engine", "evaluation", "timing", "sensitivity", "answers")
_HEX = 32


def key_of(parts: Mapping[str, Any]) -> str:
    """The key of a step: SHA-256 of the canonical JSON of everything that decides its result."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HEX]


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
        """What the technique reported of its work."""
        return dict(self.manifest["metrics"])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and digests of its files: equal content, equal digest."""
        files = {name: entry["sha256"] for name, entry in self.manifest["files"].items()}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of its files, the manifest aside."""
        return sum(int(entry["bytes"]) for entry in self.manifest["files"].values())

    def problems(self) -> list[str]:
        """What differs between the files on disk and the manifest; empty when nothing does."""
        extra = {name for name in disk.files(self.path) if name != MANIFEST} - set(self.manifest["files"])
        return self.changes() + [f"{self.path / name}: not in the manifest" for name in sorted(extra)]

    def changes(self) -> list[str]:
        """Which of the manifest's files are missing or differ from it."""
        found = []
        for name, entry in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                found.append(f"{path}: missing")
            elif path.stat().st_size != entry["bytes"]:
                found.append(f"{path}: {path.stat().st_size} bytes, the manifest says {entry['bytes']}")
            elif digest(path) != entry["sha256"]:
                found.append(f"{path}: its content has changed (SHA-256 differs from the manifest)")
        return found


@dataclass(frozen=True)
class Claim:
    """The right to make one artifact, held by one process at a time.

    Attributes:
        key: The artifact's key.
        kind: The artifact's kind.
        out: Empty folder to write into.
        work: Folder that survives a kill.
    """

    key: str
    kind: str
    out: Path
    work: Path


class Store:
    """A folder of artifacts.

    Args:
        root: The folder; made when something is first written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._checked: set[Path] = set()

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact with this key, or None.

        Raises:
            StoreError: Its manifest is damaged.
        """
        folder = self.root / kind / key
        try:
            manifest = _read_manifest(folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._explain(error) from error
        missing = next((name for name in manifest["files"] if not (folder / name).is_file()), None)
        if missing is not None:
            raise StoreError(f"{folder / missing} is missing", f"remove the folder and run again: rm -r {folder}")
        return Artifact(folder, manifest)

    def check(self, artifact: Artifact) -> None:
        """Compares every byte with the manifest, once per process: nothing is built on a damaged artifact.

        Raises:
            StoreError: Something differs.
        """
        if artifact.path in self._checked:
            return
        problems = artifact.problems()
        if problems:
            raise StoreError("; ".join(problems), f"remove it and run again: rm -r {artifact.path}")
        self._checked.add(artifact.path)

    def artifacts(self, damaged: list[str] | None = None) -> Iterator[Artifact]:
        """Every published artifact, by kind and key.

        Args:
            damaged: Gets the message of each artifact that cannot be read; without it, the first one is raised.

        Raises:
            StoreError: An artifact cannot be read, and no list was given.
        """
        for kind in KINDS:
            for folder in sorted((self.root / kind).glob("*")):
                try:
                    found = self.find(kind, folder.name)
                except StoreError as error:
                    if damaged is None:
                        raise
                    damaged.append(error.message)
                    continue
                if found:
                    yield found

    def resolve(self, reference: str) -> Artifact:
        """The artifact that a key, the start of one, or a folder names.

        Raises:
            StoreError: None does, or several do.
        """
        path = Path(reference)
        if (path / MANIFEST).is_file():
            return Artifact(path, _read_manifest(path))
        found = [a for a in self.artifacts() if a.key.startswith(reference)] if reference else []
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"{a.kind} {a.key[:12]}" for a in found[:5])
            raise StoreError(f"{reference!r} names {len(found)} artifacts: {listed}", "give more of the key")
        raise StoreError(f"no artifact {reference!r} in {self.root}", "'toolchain list artifacts' shows what is there")

    @contextmanager
    def claim(self, kind: str, key: str, *, again: bool = False) -> Iterator[Claim | None]:
        """Takes the right to make an artifact; waits while another process holds it.

        Args:
            kind: The artifact's kind.
            key: The artifact's key.
            again: Make it although it is there; the old one stays until the new one is published.

        Yields:
            The claim, or None when another process published the artifact meanwhile. What was not published when the
            block is left is removed, but for the work folder.

        Raises:
            StoreError: The store cannot be written.
        """
        from filelock import FileLock, Timeout

        partial = self.root / ".partial"
        with self.errors():
            partial.mkdir(parents=True, exist_ok=True)
            host.provide_temporary(partial)
            disk.git_ignore(self.root)
            lock = FileLock(partial / f"{key}.lock")
            said = False
            while not lock.is_locked:
                try:
                    partial.mkdir(exist_ok=True)  # a run that ends removes it when it is empty
                    lock.acquire(timeout=0.5 if said else 0.05)
                except FileNotFoundError:
                    continue
                except Timeout:
                    if not said:
                        logger.info("    another process works on this step: waiting for it")
                    said = True
        try:
            if not again and self.find(kind, key):
                yield None
                return
            claim = Claim(key, kind, partial / key / "out", partial / key / "work")
            with self.errors():
                shutil.rmtree(claim.out, ignore_errors=True)
                claim.out.mkdir(parents=True)
                claim.work.mkdir(exist_ok=True)
            try:
                yield claim
            finally:
                shutil.rmtree(claim.out, ignore_errors=True)
                with suppress(OSError):  # what is to be resumed stays; empty folders go
                    claim.work.rmdir()
                    (partial / key).rmdir()
        finally:
            if self.root.joinpath(kind, key, MANIFEST).is_file():
                shutil.rmtree(partial / key, ignore_errors=True)
                # Whoever waits for the deleted file's lock gets it, finds the artifact published, and does nothing.
                with suppress(OSError):
                    (partial / f"{key}.lock").unlink()
            lock.release()

    def publish(self, claim: Claim, manifest: Mapping[str, Any]) -> Artifact:
        """Makes what was written under a claim an artifact, in one step.

        Args:
            claim: The claim.
            manifest: Everything but key, kind and files.
        """
        with self.errors():
            names = disk.files(claim.out)
            files = {n: {"sha256": digest(claim.out / n), "bytes": (claim.out / n).stat().st_size} for n in names}
            full = {"key": claim.key, "kind": claim.kind, "files": files, **manifest}
            for name in names:
                disk.sync(claim.out / name)
            (claim.out / MANIFEST).write_text(json.dumps(full, indent=2, sort_keys=True) + "\n", "utf-8")
            disk.sync(claim.out / MANIFEST)
            final = self.root / claim.kind / claim.key
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():
                self.remove(Artifact(final, full))
            claim.out.replace(final)
        return Artifact(final, full)

    def remove(self, artifact: Artifact) -> None:
        """Removes an artifact: out of sight in one step, then from disk."""
        with self.errors():
            grave = self.root / ".partial" / f"{artifact.key}.removed"
            grave.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(grave, ignore_errors=True)
            artifact.path.replace(grave)
            shutil.rmtree(grave)

    def sweep(self) -> None:
        """Removes what interrupted runs left behind of artifacts that are published by now, and nobody works on."""
        published = {a.name for kind in KINDS for a in (self.root / kind).glob("*") if (a / MANIFEST).is_file()}
        for path in (self.root / ".partial").glob("*"):
            key, _, ending = path.name.partition(".")
            if ending == "removed":
                disk.remove(path)
            elif key in published:
                disk.clear(self.root / ".partial" / key, self.root / ".partial" / f"{key}.lock")
        with suppress(OSError):
            (self.root / ".partial").rmdir()

    def gc(self, keep: Iterable[str], *, dry_run: bool = False) -> tuple[list[Artifact], int]:
        """Removes every artifact that is not kept, and the leftovers that no process works on.

        Args:
            keep: Keys to keep.
            dry_run: Only say what would go.

        Returns:
            The artifacts, and the bytes that they and the leftovers take.
        """
        from filelock import FileLock, Timeout

        kept = set(keep)
        gone = [artifact for artifact in self.artifacts() if artifact.key not in kept]
        freed = sum(artifact.size_bytes for artifact in gone)
        if not dry_run:
            for artifact in gone:
                self.remove(artifact)
        for folder in sorted((self.root / ".partial").glob("*")):
            key = folder.name.partition(".")[0]
            if not folder.is_dir():
                continue
            lock = self.root / ".partial" / f"{key}.lock"
            unused = dry_run and not lock.exists()  # to try a lock makes its file, and a dry run makes none
            try:
                with nullcontext() if unused else FileLock(lock, timeout=0):
                    freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                    if not dry_run:
                        disk.remove(folder)
            except Timeout:
                continue
        if not dry_run:
            for path in (self.root / ".partial").glob("*.lock"):
                if not (self.root / ".partial" / path.stem).exists():
                    disk.clear(path.with_suffix(""), path)
            self.sweep()
        return gone, freed

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns the system's errors about the store's disk into ones that say what to do."""
        try:
            yield
        except OSError as error:
            raise self._explain(error) from error

    def explains(self, error: BaseException) -> StoreError | None:
        """The store's explanation of an error that a library raised, when the disk is its cause; else None."""
        if isinstance(error, OSError) and error.errno in _DISK:
            return self._explain(error)
        here = next(path for path in (self.root, *self.root.parents) if path.exists())
        if "No space left" in str(error) or shutil.disk_usage(here).free < 65536:
            return self._explain(OSError(errno.ENOSPC, "No space left on device", str(self.root)))
        return None

    def _explain(self, error: OSError) -> StoreError:
        where = error.filename or self.root
        hint = _DISK.get(error.errno or 0, "choose another folder with --store FOLDER")
        return StoreError(f"the store {self.root} cannot be used: {error.strerror or error} ({where})", hint)


_DISK = {
    errno.ENOSPC: "the disk is full: free some space, 'toolchain gc RECIPE', or choose another with --store FOLDER",
    errno.EDQUOT: "your disk quota is used up: 'toolchain gc RECIPE', or choose another folder with --store FOLDER",
    errno.EROFS: "the file system is read-only: choose another folder with --store FOLDER",
    errno.EACCES: "no permission to write there: choose another folder with --store FOLDER",
    errno.EPERM: "no permission to write there: choose another folder with --store FOLDER",
}


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a published artifact.

    Raises:
        StoreError: It is not what ``publish`` wrote.
    """
    path = folder / MANIFEST
    hint = f"remove the folder and run again: rm -r {folder}"
    try:
        manifest: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}", hint) from error
    needed = {"key": str, "kind": str, "files": dict, "metrics": dict, "parts": dict, "parents": list}
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(n), kind) for n, kind in needed.items()):
        raise StoreError(f"{path} is damaged: it needs {', '.join(needed)}", hint)
    if outside := next((n for n in manifest["files"] if Path(n).is_absolute() or ".." in Path(n).parts), None):
        raise StoreError(f"{path} names {outside!r}; allowed are files inside of its folder", hint)
    return manifest
