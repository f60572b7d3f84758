"""What of Intel Neural Compressor's errors a user can act on, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from toolchain.core.child import ChildError
from toolchain.core.errors import MissingPackageError, ModelError, ToolchainError

INSTALL = (
    "python3 -m venv ENV; ENV/bin/pip install neural-compressor==3.7.1 'numpy<2' 'setuptools>=80,<82' six onnx "
    "onnxruntime; then name it in the recipe: {python: ENV/bin/python}"
)

#: How much of what it says an error repeats.
_MOST = 300


def what(technique: str) -> str:
    """How an error begins."""
    return f"{technique}: Intel Neural Compressor"


def explained(error: ChildError, technique: str, path: Path) -> ToolchainError:
    """An error of the package that has been imported and asked to work.

    Args:
        error: What came of the child process.
        technique: The pass.
        path: The file with all that the package printed.
    """
    if error.kind not in ("NothingFoundError", "SystemExit"):
        return error
    begins, log = what(technique), f"all that it said: {path}"
    said = error.said.strip().partition("\n")[0][:_MOST] if error.kind == "NothingFoundError" else ""
    if "Singular matrix" in said or "positive definite" in said:
        return ModelError(
            f"{begins}: the calibration sentences do not determine a weight; {log}",
            "raise calibration_samples, or use algorithm: rtn",
        )
    if "MemoryError" in said or "Unable to allocate" in said:
        return ModelError(f"{begins} ran out of memory: {said}; {log}", "lower calibration_samples")
    return ModelError(
        f"{begins} gave no graph: {said or 'it ended without saying why'}; {log}",
        "exclude the node that it names, or use another technique: static_int8, dynamic_int8, weight_only",
    )


def missing(reason: str, have: Mapping[str, str], technique: str, python: str) -> MissingPackageError:
    """Why the package cannot be imported, and what to install; the first cause that alone makes it impossible.

    Args:
        reason: The error of its import.
        have: Versions in the interpreter, ``missing`` where there is none.
        technique: The pass.
        python: The interpreter, empty for this one.
    """
    where = python or "this interpreter"
    package, numpy, tools = (have[name] for name in ("neural-compressor", "numpy", "setuptools"))
    if package == "missing":
        found = f"it is not installed in {where}"
    elif not package.startswith("3.7"):
        found = f"{where} has {package}, which cannot quantize ONNX: 3.7.1 is the last that can"
    elif _major(numpy) >= 2:
        found = f"{where} has numpy {numpy}, and it takes numpy below 2"
    elif not 0 <= _major(tools) < 82:
        found = f"{where} has setuptools {tools}, and it needs pkg_resources, which 82 no longer has"
    else:
        found = f"it cannot be imported by {where}: {reason.strip().partition(chr(10))[0][:_MOST]}"
    return MissingPackageError(
        f"{technique} needs Intel Neural Compressor 3.7.1: {found}",
        f"pip install 'toolchain[inc]', or in an environment of its own: {INSTALL}",
    )


def _major(version: str) -> int:
    """The first number of a version; -1 when there is none."""
    first = version.partition(".")[0]
    return int(first) if first.isdigit() else -1
