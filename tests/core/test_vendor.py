from __future__ import annotations

import pytest

from toolchain.core.errors import DataError, ModelError
from toolchain.core.vendor import vendor


class PanicException(BaseException):
    """What a library in Rust raises when it panics: no ``Exception``."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PanicException("attempt to divide by zero\nnote: run with"), "PanicException: attempt to divide by zero"),
        (SystemExit(0), "a library ended the program with code 0"), (MemoryError(), "out of memory"),
        (RuntimeError(), "RuntimeError"), (ValueError("x" * 9000), "ValueError: xxx"),
    ],
)  # fmt: skip
def test_whatever_a_library_throws_is_one_sentence_that_names_the_file(error: BaseException, said: str) -> None:
    with pytest.raises(ModelError) as caught, vendor("cannot be read", "a.json", ModelError, "again"):
        raise error
    assert caught.value.message.startswith(f"a.json cannot be read: {said}")
    assert len(caught.value.message) < 500
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [DataError("ours"), KeyboardInterrupt()])
def test_errors_of_ours_and_ctrl_c_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, vendor("cannot be read", "a.json", ModelError):
        raise error
    assert caught.value is error
