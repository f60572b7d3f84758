"""Which files of a store were compared with their digests, remembered by size, times and inode.

A file that is written to gets another time of change (``ctime``), which no program can set; so a file with the same
size, times and inode is the one that was read. The record lies in the store, and what it says of another store's files,
or of a copy, fits no inode there. ``verify`` does not read it.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolchain.core import disk

CHECKED = ".checked.json"
MOST_BYTES = 256 * 2**20

#: Times of files are as coarse as this at most: a file that changed so lately may change again without showing it.
COARSE_NS = 20_000_000


class Checked:
    """The record of a store.

    Args:
        root: The store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / CHECKED
        self._known: dict[str, list[Any]] | None = None
        self._new: dict[str, list[Any]] = {}

    def holds(self, place: str, facts: os.stat_result, sha256: str) -> bool:
        """Return whether this very file was compared with this digest.

        Args:
            place: ``kind/key/name``.
            facts: What the file system says of it now.
            sha256: The digest that the manifest names.
        """
        if self._known is None:
            self._known = self._read()
        return (self._new.get(place) or self._known.get(place)) == [*_identity(facts), sha256]

    def note(self, place: str, before: os.stat_result, after: os.stat_result, sha256: str) -> None:
        """Remember that a file has a digest, unless it changed meanwhile or only just before.

        Args:
            place: ``kind/key/name``.
            before: Its facts before it was read.
            after: Its facts after it was read.
            sha256: Its digest.
        """
        if _identity(before) == _identity(after) and time.time_ns() - after.st_ctime_ns > COARSE_NS:
            self._new[place] = [*_identity(after), sha256]

    def save(self) -> None:
        """Write what is new; where the store cannot be written, it is checked again the next time."""
        if not self._new:
            return
        self._write(self._read() | self._new)

    def tidy(self) -> None:
        """Forget files that are gone, and remove what a process left that was killed while it wrote."""
        known = self._read() | self._new
        there = {place: entry for place, entry in known.items() if (self._path.parent / place).exists()}
        if there != known:
            self._write(there)
        for path in self._path.parent.glob(f"{CHECKED}?*"):
            with suppress(OSError):
                path.unlink()

    def _write(self, known: dict[str, list[Any]]) -> None:
        with suppress(OSError):
            handle, name = tempfile.mkstemp(prefix=CHECKED, dir=self._path.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(known, file)
                Path(name).replace(self._path)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise
            self._known, self._new = known, {}

    def _read(self) -> dict[str, list[Any]]:
        try:
            found = json.loads(disk.read_own(self._path, MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return dict(found) if isinstance(found, dict) else {}


def _identity(facts: os.stat_result) -> list[int]:
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
