"""Look at the files of a folder from outside before anything opens them.

Rules, in the order in which they are checked:

1. A name is plain: it stays inside the folder.
2. A link is followed only where the hub's cache has one: from ``snapshots/REVISION/`` to the ``blobs/`` beside it.
3. A file is a regular one. To open a named pipe waits for ever, and a device has no end.
4. Its size is bounded, and so is the number of files (:mod:`toolchain.core.limits`).
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from toolchain.core.errors import ModelError, ToolchainError
from toolchain.core.limits import limit, way_out

#: What a file is that is not a regular one.
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def is_plain(name: object) -> bool:
    """Return whether a name that a file gives for another one stays inside the folder, whatever the system."""
    if not isinstance(name, str) or name.startswith("/") or any(letter in name for letter in "\\:\0"):
        return False
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts


def check_file(folder: Path, name: str, error: type[ToolchainError] = ModelError) -> Path:
    """Return the path of a file in a folder that may be opened.

    Args:
        folder: The folder that the user named; it may be a link.
        name: The file's name, with ``/`` between the folders inside.
        error: What is raised.

    Raises:
        ToolchainError: The name leads outside, a part of it is a link, or it is no regular file; a missing one too.
    """
    path = folder / name
    if not is_plain(name):
        raise error(f"{folder} names the file {name!r}; allowed are files inside of the folder", _REPLACE)
    place = folder
    for part in PurePosixPath(name).parts:
        place /= part
        try:
            status = place.lstat()
            if stat.S_ISLNK(status.st_mode):
                _check_link(place, error)
                status = place.stat()
        except OSError as problem:
            raise error(f"{place} cannot be read: {problem.strerror}", "copy or download it again") from problem
        if place != path and not stat.S_ISDIR(status.st_mode):
            raise error(f"{place} is not a folder, and {path} should be in it", "copy or download it again")
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise error(f"{path} is {kind}; allowed are regular files", _REPLACE)
    limited = _limit_of(path.name)
    if status.st_size > (most := limit(limited)):
        raise error(f"{path} has {status.st_size:,} bytes; allowed are at most {most:,}", way_out(limited))
    return path


def _limit_of(name: str) -> str:
    """Return the name of the limit that holds the size of a file."""
    if name == "tokenizer.json":
        return "tokenizer_bytes"
    return "json_bytes" if name.endswith(".json") else "file_bytes"


_REPLACE = "put the file itself there, or remove it"


def _check_link(link: Path, error: type[ToolchainError]) -> None:
    """Refuse a link that the hub's cache does not have.

    Raises:
        ToolchainError: It leads elsewhere than from a snapshot to a blob of the same model.
    """
    place = link.parent.resolve() / link.name
    snapshots = next((folder for folder in place.parents if folder.name == "snapshots"), None)
    if snapshots is None or link.resolve().parent != snapshots.parent / "blobs":
        raise error(
            f"{link} is a symbolic link to {link.readlink()}; allowed are regular files, and the hub cache's own links",
            "copy the file in its place: cp --remove-destination FILE LINK; or give the folder that holds it",
        )


def safe_folder(folder: Path, patterns: Sequence[str], error: type[ToolchainError] = ModelError) -> list[Path]:
    """Return the files of a folder that may be opened and whose names fit, sorted; none where it is missing.

    Args:
        folder: A folder from outside.
        patterns: Names, or patterns of names such as ``*.json``.
        error: What is raised.

    Raises:
        ToolchainError: A file with such a name is a link, or no regular file; or the folder cannot be listed.
    """
    fits, odd, names = _fitting(tuple(patterns)), [], []
    most = {name: limit(name) for name in ("file_bytes", "json_bytes", "tokenizer_bytes")}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not fits(entry.name) or entry.is_dir(follow_symlinks=False):
                    continue
                names.append(entry.name)
                large = entry.stat(follow_symlinks=False).st_size > most[_limit_of(entry.name)]
                if not entry.is_file(follow_symlinks=False) or large or ":" in entry.name:
                    odd.append(entry.name)
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise error(f"{folder} cannot be read: {problem.strerror}") from problem
    if len(names) > (allowed := limit("folder_files")):
        raise error(f"{folder} holds {len(names):,} files; allowed are at most {allowed:,}", way_out("folder_files"))
    for name in sorted(odd):
        check_file(folder, name, error)
    return [folder / name for name in sorted(names)]


@cache
def _fitting(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """Return what tells whether a name fits one of the patterns."""
    return re.compile("|".join(map(fnmatch.translate, patterns))).match


def copy_files(folder: Path, names: Iterable[str], out: Path, error: type[ToolchainError] = ModelError) -> None:
    """Copy named files of a folder into another one, and nothing else of it.

    Args:
        folder: A folder from outside.
        names: Names of files in it.
        out: Where to; folders inside are made.
        error: What is raised.

    Raises:
        ToolchainError: A file is missing, a link, or no regular file.
    """
    for name in names:
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(check_file(folder, name, error), target)


def check_output(path: Path, option: str = "-o") -> None:
    """Refuse to write through a link: a file or folder that is one, or a folder with files that are.

    Args:
        path: Where a command writes to; it may be missing.
        option: The option that named it.

    Raises:
        ToolchainError: It is a link, or a file in it is a link or no regular file.
    """
    odd = [path] if path.is_symlink() else []
    if path.is_dir() and not odd:
        with os.scandir(path) as entries:
            odd = sorted(Path(e.path) for e in entries if not (e.is_file(follow_symlinks=False) or e.is_dir()))
    if odd:
        what = f"a link to {odd[0].readlink()}" if odd[0].is_symlink() else "no regular file"
        raise ToolchainError(
            f"{option} {path}: {odd[0]} is {what}; nothing is written through it", "remove it, or choose another place"
        )
