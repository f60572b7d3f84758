"""What a bad input is: its name for the page of errors, what to prepare, and the command that gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Prepares a folder, in which the command is then run.
Prepare = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        what: What is wrong, as a row of the page names it.
        argv: The command, run in the prepared folder.
        prepare: Puts files into the folder.
        code: The exit code that it must have.
        says: What the message must hold: the value, what is allowed, or what to do.
    """

    what: str
    argv: tuple[str, ...]
    prepare: Prepare
    says: tuple[str, ...]
    code: int = 1


def nothing(folder: Path) -> None:
    """Leaves the folder empty."""


def both(*prepares: Callable[[Path], object]) -> Prepare:
    """One after the other."""

    def prepare(folder: Path) -> None:
        for each in prepares:
            each(folder)

    return prepare


def files(**texts: str | bytes) -> Prepare:
    """Writes files, ``a_yaml`` for ``a.yaml``."""

    def prepare(folder: Path) -> None:
        for name, text in texts.items():
            path = folder / ".".join(name.rsplit("_", 1))
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return prepare
