"""The artifact store: content-addressed, locked, atomic; a folder with a manifest is complete by definition.

Layout::

    artifacts/<kind>/<key>/manifest.json …   published, never edited
    artifacts/.partial/<key>/out             what is being written
    artifacts/.partial/<key>/work            what survives a kill, to resume from
    artifacts/.partial/<key>.lock            held by the process that works on the key
    artifacts/.lock                          held by every command that uses the store, and alone by gc
    artifacts/.checked.json                  which files were compared with their digests
    artifacts/.traces/                       traced graphs without weights, for the next export of their shape
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core import disk, host, lock, manifest
from toolchain.core.artifact import Artifact, digest
from toolchain.core.checked import Checked
from toolchain.core.disk_errors import HINTS, explain
from toolchain.core.errors import DamagedError, StoreError
from toolchain.core.log import logger
from toolchain.core.manifest import MANIFEST, key_of
from toolchain.core.manifest_format import KEY_DIGITS, KINDS

__all__ = ["KINDS", "MANIFEST", "Artifact", "Claim", "Store", "digest", "key_of"]

_KEY = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}")


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
        self._compared: set[Path] = set()
        self._checked = Checked(root)
        self._users = 0

    @contextmanager
    def used(self, *, make: bool = False) -> Iterator[None]:
        """Hold the store beside others until the end of the block, so that no ``gc`` removes what is in use.

        Args:
            make: Make the folder where there is none; else there is nothing to hold.

        Raises:
            StoreError: The folder cannot be made.
        """
        if make:
            with self.errors():
                self.root.mkdir(parents=True, exist_ok=True)
        there = make or any(disk.is_folder(self.root / name) for name in (*KINDS, ".partial"))
        with nullcontext() if self._users or not there else lock.held(self.root):
            self._users += there
            try:
                yield
            finally:
                self._users -= there

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact with this key, or None.

        Raises:
            DamagedError: Its manifest is damaged, a file is missing, or a link stands where none may be.
            StoreError: It cannot be read.
        """
        folder = self.root / kind / key
        for path in (folder.parent, folder):
            if path.is_symlink():
                raise DamagedError(f"{path} is a link, and the store has none", f"remove it: rm {path}")
        try:
            record = manifest.read(folder, kind, key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise explain(self.root, error) from error
        found = Artifact(folder, record)
        for name in record["files"]:
            if found.facts(name) is None:
                path = folder / name
                wrong = "is no regular file" if path.is_symlink() or path.exists() else "is missing"
                raise DamagedError(f"{path} {wrong}", f"remove the folder and run again: rm -r {folder}")
        return found

    def check(self, artifact: Artifact) -> None:
        """Compare every byte with the manifest, unless these very files were compared before.

        Raises:
            DamagedError: Something differs.
        """
        if artifact.path in self._compared:
            return
        own = artifact.path.parent.parent == self.root
        problems = artifact.changes(self._checked if own else None) + artifact.strangers()
        self._checked.save()
        if problems:
            raise DamagedError("; ".join(problems), f"remove it and run again: rm -r {artifact.path}")
        self._compared.add(artifact.path)

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
            return Artifact(path, manifest.read(path))
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

        with self.errors():
            partial = self.partial()
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

    def publish(self, claim: Claim, facts: Mapping[str, Any]) -> Artifact:
        """Makes what was written under a claim an artifact, in one step.

        Args:
            claim: The claim.
            facts: Everything of the manifest but key, kind, files and seal.
        """
        final = self.root / claim.kind / claim.key
        if final.parent.is_symlink():
            raise StoreError(f"{final.parent} is a link, and the store has none", f"remove it: rm {final.parent}")
        with self.errors():
            names = disk.files(claim.out)
            if other := next((name for name in names if not disk.regular(claim.out / name)), None):
                raise StoreError(f"{claim.out / other} is no regular file, and cannot be published", "report it")
            before = {name: (claim.out / name).lstat() for name in names}
            digests = {name: digest(claim.out / name) for name in names}
            files = {name: {"sha256": digests[name], "bytes": before[name].st_size} for name in names}
            replaced = self._replaced(final)
            whole = manifest.sealed(
                {"key": claim.key, "kind": claim.kind, "files": files, "replaced": replaced, **facts}
            )
            if replaced and replaced[0] == manifest.statement(whole):  # made again, and the same
                whole = manifest.sealed({**whole, "replaced": replaced[1:]})
            for name in names:
                disk.sync(claim.out / name)
            (claim.out / MANIFEST).write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n", "utf-8")
            disk.sync(claim.out / MANIFEST)
            disk.sync_folders(claim.out)
            final.parent.mkdir(parents=True, exist_ok=True)
            disk.sync_folder(self.root)
            self._bury(final)
            claim.out.replace(final)
            disk.sync_folder(final.parent)
            disk.remove(self._grave(claim.key))
        self._compared.discard(final)
        artifact = Artifact(final, whole)
        for name in names:
            if after := artifact.facts(name):
                self._checked.note(f"{claim.kind}/{claim.key}/{name}", before[name], after, digests[name])
        self._checked.save()
        return artifact

    def _replaced(self, final: Path) -> list[str]:
        """Return the statements of the artifacts that a new one takes the place of, the last one first."""
        try:
            old = manifest.read(final)
        except (OSError, StoreError):
            return []
        return [manifest.statement(old), *old.get("replaced", [])]

    def remove(self, artifact: Artifact) -> None:
        """Removes an artifact: out of sight in one step, then from disk.

        Raises:
            StoreError: It does not lie in this store, or cannot be removed.
        """
        with self.errors():
            self._bury(self.root / artifact.kind / artifact.key)
            disk.remove(self._grave(artifact.key))

    def _bury(self, folder: Path) -> None:
        """Move an artifact's folder out of sight, if there is one; what does not lie in this store is refused.

        Raises:
            StoreError: It does not lie in this store.
        """
        if not folder.is_symlink() and not folder.exists():
            return
        inside = folder.parent.parent == self.root and folder.parent.name in KINDS and _KEY.fullmatch(folder.name)
        if not inside or folder.parent.resolve() != self.root.resolve() / folder.parent.name:
            raise StoreError(f"{folder} does not lie in the store {self.root}, and is not removed")
        grave = self._grave(folder.name)
        disk.remove(grave)
        folder.replace(grave)

    def _grave(self, key: str) -> Path:
        """Return where an artifact lies while it is removed."""
        partial = self.partial()
        partial.mkdir(parents=True, exist_ok=True)
        return partial / f"{key}.removed"

    def partial(self) -> Path:
        """Return the folder of what is being worked on.

        Raises:
            StoreError: It is a link.
        """
        folder = self.root / ".partial"
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link, and the store has none", f"remove it: rm {folder}")
        return folder

    def sweep(self) -> None:
        """Removes what interrupted runs left behind of artifacts that are published by now, and nobody works on."""
        if (self.root / ".partial").is_symlink():
            return
        published = {a.name for kind in KINDS for a in (self.root / kind).glob("*") if (a / MANIFEST).is_file()}
        for path in (self.root / ".partial").glob("*"):
            key, _, ending = path.name.partition(".")
            if ending == "removed":
                disk.remove(path)
            elif key in published:
                disk.clear(self.root / ".partial" / key, self.root / ".partial" / f"{key}.lock")
        self._checked.tidy()
        with suppress(OSError):
            (self.root / ".partial").rmdir()

    def gc(
        self, keep: Iterable[str], *, only: Iterable[str] | None = None, dry_run: bool = False, wait: bool = False,
        damaged: list[str] | None = None,
    ) -> tuple[list[Artifact], int]:  # fmt: skip
        """Removes every artifact that is not kept, and the leftovers that no process works on.

        Args:
            keep: Keys to keep.
            only: Keys that may go; None is all. What is published while others are waited for is not among them.
            dry_run: Only say what would go.
            wait: Wait until nobody else uses the store; nothing is removed before.
            damaged: Gets the message of each artifact that cannot be read, and stays; without it, it is raised.

        Returns:
            The artifacts, and the bytes that they and the leftovers take.

        Raises:
            StoreError: A run uses the store, or an artifact cannot be read or removed.
        """
        from toolchain.core.collect import collect

        if dry_run or not self.root.is_dir():
            return collect(self, set(keep), only, dry_run, damaged)
        with self.errors(), lock.held(self.root, exclusive=True, wait=wait):
            return collect(self, set(keep), only, dry_run, damaged)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns the system's errors about the store's disk into ones that say what to do."""
        try:
            yield
        except OSError as error:
            raise explain(self.root, error) from error

    def explains(self, error: BaseException) -> StoreError | None:
        """The store's explanation of an error that a library raised, when the disk is its cause; else None."""
        if isinstance(error, OSError) and error.errno in HINTS:
            return explain(self.root, error)
        if "No such file" in str(error) and str(self.root) in str(error) and not self.root.is_dir():
            return StoreError(
                f"the store {self.root} is gone: it was removed while the command ran", "run the command again"
            )
        here = next(path for path in (self.root, *self.root.parents) if path.exists())
        if "No space left" in str(error) or shutil.disk_usage(here).free < 65536:
            return explain(self.root, OSError(errno.ENOSPC, "No space left on device", str(self.root)))
        return None
