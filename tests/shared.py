"""Folders that take long to make: each is made once, however many processes test, and never written to afterwards."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

#: Names the folder that the processes of one run of the tests have in common; ``conftest.py`` makes and removes it.
VARIABLE = "TOOLCHAIN_TESTS_SHARED"

#: The folder in it that exports take traced graphs from, which are the same for all.
TRACES = "traces"


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder of that name.

    Args:
        name: What is in it, settings included.
        make: Fills an empty folder, which has its own name only afterwards.
    """
    folder = root() / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_name(f"{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


@functools.cache
def root() -> Path:
    """Where they lie: one folder for all processes, or this one's own where nobody named one."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    own = Path(tempfile.mkdtemp(prefix="toolchain-tests-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own
