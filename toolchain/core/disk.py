"""Files and folders on the disk: what the store does to them, and how a file of a stranger is opened."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from toolchain.core import limits
from toolchain.core.errors import ToolchainError

#: A path in the home folder of a user.
_HOME = re.compile(r"~[\w.-]*(/|\Z)")


def files(folder: Path) -> list[str]:
    """Return everything in a folder but its folders, by the paths in it, sorted; links are not followed."""
    found = []
    for where, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(where) / name).is_symlink()]
        found += [str((Path(where) / name).relative_to(folder)) for name in [*names, *links]]
    return sorted(found)


def regular(path: Path) -> os.stat_result | None:
    """Return the facts of a regular file that is no link, or None."""
    try:
        facts = path.lstat()
    except (OSError, ValueError):
        return None
    return facts if stat.S_ISREG(facts.st_mode) else None


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def read_own(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a file of a store, which has no links; what is no regular file is refused at once.

    Raises:
        FileNotFoundError: There is nothing.
        OSError: It cannot be read.
        ValueError: It is a link, no regular file, or too large.
    """
    if path.is_symlink():
        raise ValueError("it is a link, not a regular file")
    if path.is_dir():
        raise ValueError("it is a folder, not a file")
    try:
        return read_bounded(path, most_bytes)
    except ToolchainError as error:
        raise ValueError(error.message) from error


def size(folder: Path) -> int:
    """Return the bytes of all files of a folder; links are not followed."""
    return sum(facts.st_size for name in files(folder) if (facts := regular(folder / name)))


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can tell."""
    with suppress(OSError):
        sync(path)


def sync_folders(path: Path) -> None:
    """Do that for a folder and all below it."""
    for where, _, _ in os.walk(path, topdown=False):
        sync_folder(Path(where))


def git_ignore(root: Path) -> None:
    """Keep a store that a user puts into a repository out of its history; ours is ignored already."""
    ignore = root / ".gitignore"
    if not ignore.exists() and not (root / "published").exists():
        ignore.write_text("*\n", "utf-8")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; links are not followed."""
    if is_folder(path):
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


def open_regular(path: Path) -> BufferedReader:
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
    if _HOME.match(text):
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
