"""What the system says of a store's disk, and what to do."""

from __future__ import annotations

import errno
from pathlib import Path

from toolchain.core.errors import StoreError

#: What to do, by the error's number.
HINTS = {
    errno.ENOSPC: "the disk is full: free some space, 'toolchain gc RECIPE', or choose another with --store FOLDER",
    errno.EDQUOT: "your disk quota is used up: 'toolchain gc RECIPE', or choose another folder with --store FOLDER",
    errno.EROFS: "the file system is read-only: choose another folder with --store FOLDER",
    errno.EACCES: "no permission to write there: choose another folder with --store FOLDER",
    errno.EPERM: "no permission to write there: choose another folder with --store FOLDER",
}


def explain(root: Path, error: OSError) -> StoreError:
    """Return an error of a store's disk as one that says what to do.

    Args:
        root: The store's folder.
        error: What the system said.
    """
    where = error.filename or root
    hint = HINTS.get(error.errno or 0, "choose another folder with --store FOLDER")
    return StoreError(f"the store {root} cannot be used: {error.strerror or error} ({where})", hint)
