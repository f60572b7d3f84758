"""Files and folders on the disk: what the store does to them, and how a file of a stranger is opened."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from toolchain.core import limits
from toolchain.core.errors import ToolchainError


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


def read_bounded(path: Path, limit: int | None = None, name: str = "json_bytes") -> bytes:
    """Return the bytes of a regular file: a pipe, a device or a socket is refused at once, and so is a large file.

    Args:
        path: The file.
        limit: Most bytes that are read; None is the limit of that name.
        name: Name of the limit, for the error's hint.

    Raises:
        OSError: It is not there or cannot be read.
        ToolchainError: It is no regular file, or is larger.
    """
    most = limits.limit(name) if limit is None else limit
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ToolchainError(f"{path} has {size:,} bytes; at most {most:,} are read", limits.way_out(name))
        return file.read(most + 1)[:most]


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading if it is a regular one; a pipe or a device would wait or go on for ever.

    Raises:
        OSError: It is not there or cannot be read.
        ToolchainError: It is something else.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:  # an embedded NUL
        raise FileNotFoundError(errno.ENOENT, "no file has such a name", ascii(str(path))) from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _irregular(path, "a socket") from error
        raise
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise _irregular(path, "a pipe" if stat.S_ISFIFO(mode) else "a device")
    return os.fdopen(number, "rb")


def _irregular(path: Path, kind: str) -> ToolchainError:
    return ToolchainError(f"{path} is {kind}, not a file", "copy what it gives into a file, and name that")


def check_text(text: str, where: str) -> None:
    """Refuse a text from a user that no file's name and no file can hold, and a home folder of nobody.

    Raises:
        ToolchainError: It holds a NUL or a surrogate, or begins with ``~NAME/`` and there is no such user.
    """
    if "\0" in text:
        raise ToolchainError(f"{where}: holds a NUL character", "remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ToolchainError(
            f"{where}: character {error.start + 1} is no text: bytes that are not UTF-8, or half of a character",
            "write it as UTF-8, or rename the file",
        ) from error
    if text.startswith("~"):
        expand(text)


def expand(text: str) -> Path:
    """Return a path whose leading ``~`` or ``~user`` is that home folder.

    Raises:
        ToolchainError: There is no such user, or this one has no home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        user = text.partition("/")[0]
        raise ToolchainError(f"{text[:120]}: there is no home folder {user[:80]}", "write the whole path") from error
