from __future__ import annotations

import contextlib

import pytest

from toolchain.core import errors
from toolchain.core.errors import (
    EngineError,
    GateError,
    LostProcessError,
    MissingPackageError,
    ToolchainError,
    refuse_lost,
    require,
)


def test_an_error_says_what_is_wrong_and_then_what_to_do() -> None:
    assert str(ToolchainError("epochs: 0 is below 1", "set epochs: 1")) == "epochs: 0 is below 1\n  hint: set epochs: 1"
    assert str(ToolchainError("epochs: 0 is below 1")) == "epochs: 0 is below 1"


def test_every_error_is_a_toolchain_error_and_only_a_missed_gate_exits_with_3() -> None:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    kinds = [kind for kind in found if issubclass(kind, ToolchainError)]
    assert len(found) == len(kinds) == 11
    assert {kind.exit_code for kind in kinds if kind is not GateError} == {1}
    assert GateError.exit_code == 3


def test_a_missing_package_is_an_error_with_the_command_that_installs_it() -> None:
    with pytest.raises(MissingPackageError, match="no_such_package") as caught:
        require("no_such_package.inside", "openvino")
    assert "pip install 'toolchain[openvino]'" in caught.value.hint
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_package_that_is_there_is_imported() -> None:
    assert require("json.decoder", "cpu").JSONDecodeError.__name__ == "JSONDecodeError"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (MemoryError(), True),
        (EngineError("ONNX Runtime: std::bad_alloc"), True),
        (EngineError("Failed to allocate memory for requested buffer of size 1024"), True),
        (LostProcessError("its process was ended by SIGKILL"), True),
        (EngineError("memory_limit_mb is no setting of it"), False),
        (EngineError("Reshape: dims do not fit"), False),
    ],
)
def test_a_failed_allocation_is_no_result(error: Exception, lost: bool) -> None:
    with pytest.raises(LostProcessError) if lost else contextlib.nullcontext():
        refuse_lost(error)
