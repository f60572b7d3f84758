"""Turns whatever was raised into one error of ours with the way out; a bug keeps its traceback in a file.

Three places answer everything that is raised: ``main``, the run of a step, and a worker. They call :func:`explain`.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from toolchain.core.errors import ToolchainError

#: A message and its hint together fit on a screen of 24 lines of 80 characters.
SCREEN_LINES, SCREEN_CHARACTERS = 22, 1800
MESSAGE_LINES, MESSAGE_CHARACTERS = 14, 1100
HINT_LINES, HINT_CHARACTERS = 4, 700
NAME_CHARACTERS = 120

_SPACE = "free some space, or name other folders: --store FOLDER, and TMPDIR=FOLDER for temporary files"
_RIGHTS = "choose a folder that this user may read and write: --store FOLDER, -o FOLDER, TMPDIR=FOLDER"

#: Errors of the machine, which no program can prevent, and what its user can do.
_HINTS = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.EMFILE: "allow more open files: ulimit -n 1024",
    errno.ENFILE: "close other programs: the machine has no more open files to give",
    errno.EAGAIN: "allow more processes and threads (ulimit -u), or close other programs",
    errno.ENOMEM: "close other programs, or use a machine or a container with more memory",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "the link leads to itself: name the file",
    errno.ENOENT: "it is not there, or was removed while the command ran: check the name, and run the command again",
    errno.ENOTDIR: "a part of the path is a file: check the name",
    errno.EISDIR: "name a file in it",
    errno.EIO: "the disk or the network drive fails: try again, or use another",
    errno.ESTALE: "the network drive lost it: run the command again",
    errno.ETIMEDOUT: "the disk or the network did not answer: run the command again",
}


def explain(error: BaseException) -> ToolchainError:
    """Return the error of ours that says what another one means to the user.

    Args:
        error: Whatever was raised, exceptions of native libraries that are no ``Exception`` included.

    Returns:
        An error whose message and hint together fit on a screen. One that nobody foresaw has its traceback written to
        a file that its hint names.
    """
    if isinstance(error, ToolchainError):
        error.message, error.hint = shorten(error.message), shorten(error.hint, HINT_LINES, HINT_CHARACTERS)
        return error
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
        return ToolchainError(
            "no folder for temporary files can be written",
            "name one that can: TMPDIR=FOLDER ('toolchain doctor' looks)",
        )
    if isinstance(error, OSError) and error.errno in _HINTS:
        named = [name_of(part) for part in (error.filename, error.filename2) if part is not None]
        return ToolchainError(": ".join([" -> ".join(named), str(error.strerror)] if named else [str(error.strerror)]),
                              _HINTS[error.errno])  # fmt: skip
    if isinstance(error, MemoryError):
        return ToolchainError(f"out of memory{f': {summary(error)}' if str(error) else ''}", _HINTS[errno.ENOMEM])
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        text = ascii(error.object)[1:-1]
        return ToolchainError(
            f"{name_of(text)} holds surrogates, which are no characters and cannot be written", "write it as UTF-8"
        )
    said = f"internal error: {summary(error)}"
    return ToolchainError(said, f"please report it with the command and its traceback, {record(error)}")


def summary(error: BaseException) -> str:
    """Return an exception's type and the first line of its text."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a text that cannot be made
        lines = []
    kind = type(error).__name__
    if isinstance(error, SystemExit):
        return f"a library ended the program with code {error.code}"
    return f"{kind}: {shorten(lines[0], 1, 400)}" if lines else kind


def record(error: BaseException) -> str:
    """Write an exception's traceback to a file of its own, and return how to get at it.

    Where no file can be written, the traceback goes to stderr.
    """
    text = "".join(traceback.format_exception(error))
    command = " ".join(["toolchain", *sys.argv[1:]])
    text = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n{command}\n\n{text}"
    for folder in (None, os.curdir):
        with suppress(OSError, ValueError):
            number, path = tempfile.mkstemp(".txt", "toolchain-error-", folder)
            with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return f"which is in {Path(path).absolute()}"
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
    return "which stands above: no file could be written for it"


def shorten(text: str, lines: int = MESSAGE_LINES, characters: int = MESSAGE_CHARACTERS) -> str:
    """Return a text of at most so many lines and characters; what is left out is counted."""
    rows = text.splitlines()
    if len(rows) > lines:
        text = "\n".join([*rows[: lines - 1], f"... and {len(rows) - lines + 1:,} more lines"])
    if len(text) <= characters:
        return text
    tail = characters // 4
    left_out = f" [... {len(text) - characters + 40:,} characters ...] "
    return text[: characters - tail - 40] + left_out + text[-tail:]


def name_of(value: object) -> str:
    """Return a file's name as a message shows it: of bounded length, and printable."""
    text = os.fsdecode(value) if isinstance(value, (bytes, str, os.PathLike)) else str(value)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    half = NAME_CHARACTERS // 2
    return text if len(text) <= NAME_CHARACTERS else f"{text[: half - 2]}...{text[-half:]}"
