"""Memory of the process that trains."""

from __future__ import annotations

import ctypes
import sys

#: Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4

#: As much is asked of the system at a time, in bytes.
_PAD = 256 * 2**20


def keep_freed() -> bool:
    """Makes glibc reuse memory that is freed, in place of giving it back to the system.

    A step of training frees and asks for the same large tensors again and again. By default each is mapped and
    unmapped, and the system clears every page anew, which can take more time than the arithmetic
    (``benchmarks/training.py``).
    What the process holds stays at its peak until it ends.

    Returns:
        Whether this C library can do it.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, _PAD)])
