"""What libraries take for granted of a machine, and containers lack: a home, a user's name, a temporary folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def provide_user() -> None:
    """Give this process a home and a user's name if its user has none, as an unknown uid of a container.

    Without a home, caches would be written to a folder named ``~`` in the current one; a library that asks for the
    user's name would end with a KeyError.
    """
    if not hasattr(os, "getuid"):
        return
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", str(os.getuid()))
        os.environ.setdefault("HOME", tempfile.gettempdir() if has_temporary() else os.sep)


def provide_temporary(folder: Path) -> None:
    """Use a folder for temporary files, in this process and its children, if the machine offers none.

    Args:
        folder: A folder that can be written.
    """
    if not has_temporary():
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder.absolute())


def has_temporary() -> bool:
    """Return whether one of the folders for temporary files can be written."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return False
    return True
