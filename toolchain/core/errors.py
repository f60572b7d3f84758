"""The one exception tree. Whoever raises says what is wrong, the value, what is allowed, and what to do next."""

from __future__ import annotations

import importlib
import re
import signal
from types import ModuleType


class ToolchainError(Exception):
    """An error that the user can act on; the CLI prints it without a traceback.

    Args:
        message: What is wrong, with the value received and what is allowed.
        hint: What to do next; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class RecipeError(ToolchainError):
    """A recipe, or a setting given on the command line, is not valid."""


class DataError(ToolchainError):
    """A data set cannot be read as what it claims to be."""


class ModelError(ToolchainError):
    """A model folder, checkpoint or ONNX file cannot be used."""


class StoreError(ToolchainError):
    """The artifact store cannot be read or written, or what it holds is damaged."""


class DamagedError(StoreError):
    """An artifact, or a report, is not what was published."""


class LostProcessError(ToolchainError):
    """A process that did the work was killed, ran out of memory, or took too long.

    That says nothing of what it worked on, so that it is no result: nothing is published, and the next run tries again.
    It is no ``EngineError``: whoever records those as results does not record this one.

    Args:
        message: What is wrong.
        hint: What to do next.
        crashed: Whether it ended by a fault of its own, as it may do every time.
    """

    def __init__(self, message: str, hint: str = "", *, crashed: bool = False) -> None:
        super().__init__(message, hint)
        self.crashed = crashed


class EngineError(ToolchainError):
    """A runtime cannot build or run what it was given."""


class GateError(ToolchainError):
    """The work was done, and a check that guards its result failed."""

    exit_code = 3


class HookError(ToolchainError):
    """A technique's module defines what is not declared, or does not define what every one has."""


class MissingPackageError(ToolchainError):
    """An optional package is needed and not installed."""


#: Signals that come from outside: somebody, or the kernel that runs out of memory, ends the process.
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU}

#: What libraries say when an allocation fails.
_NO_MEMORY = re.compile(
    r"\bbad[_ ]alloc|failed to allocate memory|can(?:no|')t allocate|\bout of memory\b|OUT_OF_MEMORY|\bMemoryError\b",
    re.IGNORECASE,
)

TRY_AGAIN = "nothing is published: run it again"


def from_outside(code: int) -> bool:
    """Return whether a process with this exit code, negative for a signal, was ended from outside."""
    return -code in _FROM_OUTSIDE


def out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: now, and perhaps not the next time."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def refuse_lost(error: BaseException) -> None:
    """Refuse to record a failure as a result where it says nothing of what was worked on.

    Raises:
        LostProcessError: It is one, or memory ran out.
    """
    if isinstance(error, LostProcessError):
        raise error
    if out_of_memory(error):
        raise LostProcessError(f"memory ran out: {first_line(error)}", TRY_AGAIN) from error


def require(module: str, extra: str) -> ModuleType:
    """Imports an optional package, or says how to install it.

    Args:
        module: The module's dotted name, e.g. ``onnxruntime``.
        extra: The extra of this package that brings it, e.g. ``cpu``.

    Raises:
        MissingPackageError: The module, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{module} cannot be imported: {error}",
            f"pip install 'toolchain[{extra}]'   ('toolchain doctor' lists what is missing)",
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
