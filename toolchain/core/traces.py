"""Traced graphs without weights, kept beside artifacts: the next process need not trace a module of the same shape.

They decide no result: a graph that is taken from here gives the bytes of one that is traced. So none is part of a key,
what cannot be read is traced again, and nothing is lost when the folder is removed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from toolchain.core import disk

#: Names a folder that several stores share; without it, each store has its own.
VARIABLE = "TOOLCHAIN_TRACES"

#: The folder inside of a store.
FOLDER = ".traces"

#: How many graphs are kept: those that were used last.
KEPT = 256

#: Bytes of one at most, packed or not.
MOST_BYTES = 64 * 2**20

#: How files begin that are being written.
_PARTIAL = ".partial-"

_DIGEST_BYTES = hashlib.sha256().digest_size


def folder_of(store: Path) -> Path:
    """Return where the graphs of a store's exports are kept."""
    shared = os.environ.get(VARIABLE)
    return disk.expand(shared).absolute() if shared else store / FOLDER


def read(folder: Path, key: str) -> bytes | None:
    """Return what is kept under a key, or None if nothing is, or it is damaged."""
    path = folder / key
    try:
        whole = disk.read_own(path, MOST_BYTES)
    except (OSError, ValueError):
        return None
    digest, packed = whole[:_DIGEST_BYTES], whole[_DIGEST_BYTES:]
    if hashlib.sha256(packed).digest() != digest:
        return None
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(packed, MOST_BYTES)
    except zlib.error:
        return None
    with suppress(OSError):
        os.utime(path)
    return content if unpacking.eof else None


def write(folder: Path, key: str, content: bytes) -> None:
    """Keep something under a key in one step, and forget what was not used for longest; a full disk keeps nothing."""
    if len(content) >= MOST_BYTES or folder.is_symlink():
        return
    packed = zlib.compress(content, 1)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PARTIAL, dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(packed).digest() + packed)
            Path(name).replace(folder / key)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        for path in sorted(folder.iterdir(), key=lambda path: path.lstat().st_mtime, reverse=True)[KEPT:]:
            path.unlink(missing_ok=True)


def damaged(store: Path) -> Iterator[Path]:
    """Yield what lies among a store's own graphs and cannot be read; that folder itself if it is none."""
    folder = store / FOLDER
    if os.path.lexists(folder) and not disk.is_folder(folder):
        yield folder
    elif folder.is_dir():
        paths = (path for path in sorted(folder.iterdir()) if not path.name.startswith(_PARTIAL))
        yield from (path for path in paths if read(folder, path.name) is None)
