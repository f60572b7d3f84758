"""What the store does to files and folders on the disk."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path


def files(folder: Path) -> list[str]:
    """Return the files of a folder, by their paths in it, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def git_ignore(root: Path) -> None:
    """Keep a store that a user puts into a repository out of its history; ours is ignored already."""
    ignore = root / ".gitignore"
    if not ignore.exists() and not (root / "published").exists():
        ignore.write_text("*\n", "utf-8")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def clear(folder: Path, lock: Path) -> None:
    """Remove a partial folder and its lock, unless a process holds it."""
    from filelock import FileLock, Timeout

    with suppress(Timeout, OSError), FileLock(lock, timeout=0):
        remove(folder)
        lock.unlink(missing_ok=True)
