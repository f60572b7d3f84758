"""Who uses a store: any number of runs at a time, or one ``gc``.

The lock ends with the process that holds it, however that ends. Its file says who holds it, for messages.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from toolchain.core.errors import StoreError
from toolchain.core.log import logger

LOCK = ".lock"
POLL_S = 0.1

#: Another process that only begins holds it alone for a moment: nobody needs to hear of that.
SILENT_S = 0.3

#: How much of a lock's file is read, and of a command shown.
MOST_BYTES = 65536
SHOWN = 80


@contextmanager
def held(root: Path, *, exclusive: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a store until the end of the block.

    Args:
        root: The store's folder, which exists.
        exclusive: Alone, rather than beside others who hold it shared.
        wait: Whether to wait where others hold it.

    Raises:
        StoreError: Others hold it, and nobody wants to wait.
        OSError: The lock's file cannot be made, and ``exclusive`` is wanted.
    """
    opened = _open(root / LOCK, must=exclusive)
    if opened is None:  # a store that nobody can write to: nothing can be removed from it either
        yield
        return
    try:
        _acquire(opened, root, exclusive=exclusive, wait=wait)
        yield
    finally:
        os.close(opened)


def _open(path: Path, *, must: bool) -> int | None:
    common = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | common, 0o666)
    except OSError:
        if must:
            raise
    with suppress(OSError):
        return os.open(path, os.O_RDONLY | common)
    return None


def _acquire(opened: int, root: Path, *, exclusive: bool, wait: bool) -> None:
    began, spoken = time.monotonic(), False
    # Whoever is alone clears what processes wrote that have ended.
    while not (alone := _try(opened, fcntl.LOCK_EX)) and (exclusive or not _try(opened, fcntl.LOCK_SH)):
        if time.monotonic() - began > SILENT_S:
            if not wait:
                raise StoreError(
                    f"the store {root} is in use by {_holders(opened)}: nothing is removed",
                    "run it again when that has ended, or wait for it with --wait",
                )
            if not spoken:
                logger.warning("the store is in use by %s: waiting for it", _holders(opened))
            spoken = True
        time.sleep(POLL_S)
    with suppress(OSError):
        if alone:
            os.ftruncate(opened, 0)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:SHOWN]
        os.write(opened, f"{os.getpid()} {command!a}\n".encode())
    if alone and not exclusive:
        fcntl.flock(opened, fcntl.LOCK_SH)


def _try(opened: int, kind: int) -> bool:
    """Return whether a lock was free; shared ones are always, where the file system has none."""
    try:
        fcntl.flock(opened, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES) or kind == fcntl.LOCK_EX:
            return False
    return True


def _holders(opened: int) -> str:
    """Return who holds a lock, as far as its file says and they are alive."""
    lines = os.pread(opened, MOST_BYTES, 0).decode("utf-8", "replace").splitlines()
    alive = [line for line in lines if _is_alive(line.partition(" ")[0])]
    named = [f"process {pid} ({command})" for pid, _, command in (line.partition(" ") for line in alive[-3:])]
    return ", ".join(named) or "another process"


def _is_alive(pid: str) -> bool:
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
