"""One seam around native libraries: whatever they throw at a stranger's bytes becomes one error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from toolchain.core.errors import ToolchainError
from toolchain.core.failure import name_of, summary


@contextmanager
def vendor(
    what: str, of: object, error: type[ToolchainError], hint: str = "", passes: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Turn whatever a library throws inside the block into one error of ours.

    Args:
        what: What is wrong, as the message says it after the file: ``cannot be used as a tokenizer``.
        of: The file or folder that it was given.
        error: The class of the error.
        hint: What to do about it.
        passes: Classes that pass unchanged, because the caller knows what they mean.

    Raises:
        ToolchainError: Of that class, whatever was raised: exceptions that are no ``Exception``, such as pyo3's
            PanicException, and a library's ``sys.exit`` included. Errors of ours and Ctrl-C pass unchanged.
    """
    try:
        yield
    except (ToolchainError, KeyboardInterrupt, GeneratorExit):
        raise
    except passes:
        raise
    except MemoryError as caught:
        hint = "use a machine with more memory, or a smaller file"
        raise error(f"{name_of(of)} {what}: out of memory", hint) from caught
    except BaseException as caught:
        raise error(f"{name_of(of)} {what}: {summary(caught)}", hint) from caught
