"""How a command ends: whatever was raised becomes one message and an exit code, on whatever outputs are left."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from toolchain.core import disk, failure, foreign
from toolchain.core.errors import ToolchainError

STOPPED = "stopped: what is finished stays, the same command goes on from here"

OUTPUT = "standard output"

#: Exit codes of commands that were stopped, and whose reader went away, as shells know them.
INTERRUPTED, BROKEN_PIPE = 130, 141


def prepare_streams() -> None:
    """Make outputs usable: every character printable, closed ones open to nowhere, a width that is a number."""
    for number in (0, 1, 2):  # else the next file that is opened is what a library prints into
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in latin-1 or ASCII a "±" would end a run that has done its work
            stream.reconfigure(errors="replace")
    if type(sys.stdout) is io.TextIOWrapper and sys.stdout.fileno() == 1:
        terminal, encoding = sys.stdout.line_buffering, sys.stdout.encoding
        sys.stdout.flush()
        output = io.BufferedWriter(_Output(1, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(output, encoding, "replace", line_buffering=terminal)
    for variable in ("COLUMNS", "LINES"):  # libraries read them as numbers whatever they hold
        text = os.environ.get(variable, "1")
        if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text)):
            del os.environ[variable]
    logging.raiseExceptions = False  # a full stderr would be told on stderr


class _Output(io.FileIO):
    """Standard output, whose errors say that it is what failed."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, OUTPUT) from error


def check_words(argv: Sequence[str]) -> None:
    """Refuse words of a command line that no file's name and no file can hold.

    Raises:
        ToolchainError: One holds a NUL or bytes that are not UTF-8, or names the home of nobody.
    """
    for number, word in enumerate(argv, start=1):
        disk.check_text(word, f"argument {number}, {failure.name_of(word)}")


def flush() -> None:
    """Write out what is buffered, so that an output that fails is an error of the command.

    Raises:
        OSError: An output cannot be written.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # closed
            stream.flush()


def answer(error: BaseException, as_json: bool) -> int:
    """Say what an error means, and return the exit code.

    Args:
        error: Whatever ended the command.
        as_json: Whether a program reads standard output.
    """
    if isinstance(error, KeyboardInterrupt | click.exceptions.Abort):
        _say(STOPPED)
        return _leave(INTERRUPTED)
    if isinstance(error, BrokenPipeError) or _ended_by_pipe(error):
        return _leave(BROKEN_PIPE)
    if isinstance(error, OSError) and error.filename == OUTPUT:
        _say(f"error: {OUTPUT} cannot be written: {error.strerror}\n  hint: write to another file or program")
        return _leave(1)
    if isinstance(error, click.ClickException):
        message, hint, code = failure.shorten(error.format_message()), "", error.exit_code
        shown = foreign.shown(message)
        if shown == error.format_message():
            with contextlib.suppress(OSError, ValueError):
                error.show()
        else:
            _say(f"Error: {shown}")
    else:
        explained = failure.explain(error)
        message, hint, code = explained.message, explained.hint, explained.exit_code
        _say(f"error: {ToolchainError(message, hint)}")
    if as_json:
        value: dict[str, Any] = {"error": {"message": message, "hint": hint, "exit_code": code}}
        with contextlib.suppress(OSError, ValueError):
            click.echo(foreign.json_text(json.dumps(value, ensure_ascii=False)))
    return _leave(code)


def leave_at_once(code: int) -> NoReturn:
    """End the process of a command that was stopped, after what was registered for its end.

    Libraries take seconds to let go of their memory piece by piece, which the system takes back by itself.
    """
    atexit._run_exitfuncs()
    os._exit(_leave(code))


def _ended_by_pipe(error: BaseException) -> bool:
    """Return whether a library ended the program because the reader of its output went away."""
    return isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)


def _say(message: str) -> None:
    """Print to stderr; where that fails, the exit code is all that is left to tell."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(foreign.shown(message), err=True)


def _leave(code: int) -> int:
    """Return an exit code; an output that fails is let go of, or the interpreter's end would tell of it again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code
