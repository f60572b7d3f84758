"""Exports through Optimum, in a child process: its own pins (transformers below 4.58) hold there and nowhere else."""

from __future__ import annotations

from pathlib import Path

from toolchain.core import child
from toolchain.core.child import ChildError
from toolchain.core.errors import MissingPackageError, ModelError, ToolchainError

#: Distributions whose versions decide the graph.
LIBRARIES = ("optimum-onnx", "optimum", "transformers", "torch")

_SCRIPT = Path(__file__).with_name("_optimum_child.py")

_INSTALL = (
    "python3 -m venv ENV; ENV/bin/pip install 'toolchain[torch,cpu,optimum]'; "
    "then export: {exporter: optimum, python: ENV/bin/python}"
)
_OURS = "take out exporter: optimum; the default exporter knows every architecture that transformers does"


def export(source: Path, out: Path, *, opset: int, python: str, work: Path, threads: int) -> dict[str, str]:
    """Writes Optimum's ``model.onnx`` of a checkpoint, with whatever else Optimum writes.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        opset: ONNX operator set.
        python: Interpreter with Optimum; empty for this one.
        work: Folder for litter.
        threads: Threads to compute with.

    Returns:
        Versions of what did the work.

    Raises:
        MissingPackageError: Optimum is not installed there, or cannot be imported with what is.
        ModelError: Optimum cannot export this architecture, or not at this opset.
        RecipeError: There is no such interpreter.
    """
    request = {"source": str(source.resolve()), "out": str(out.resolve()), "opset": opset}
    try:
        answer = child.run(
            _SCRIPT, request, python=python, work=work, threads=threads, what=f"{source}: Optimum's export"
        )
    except ChildError as error:
        raise _explained(error, source, opset, child.resolve(python)) from error
    if not (out / "model.onnx").is_file():
        raise ModelError(f"{source}: Optimum wrote no model.onnx", _OURS)
    return dict(answer["versions"])


def versions(python: str) -> dict[str, str]:
    """Versions of Optimum and of what it works with, in the environment of an interpreter."""
    return child.versions(python, LIBRARIES)


def _explained(error: ChildError, source: Path, opset: int, interpreter: str) -> ToolchainError:
    """What of Optimum's errors a user can act on, in our words; the others as they came."""
    said = error.said.strip()
    first = said.splitlines()[0] if said else ""
    if error.kind in ("ImportError", "ModuleNotFoundError", "MinimumVersionError") or "Failed to import" in said:
        found = ", ".join(f"{name} {version}" for name, version in versions(interpreter).items())
        return MissingPackageError(
            f"Optimum cannot be imported by {interpreter} ({found}): {first}",
            f"it needs an environment of its own, with transformers below 4.58: {_INSTALL}",
        )
    if any(part in said for part in ("unsupported architecture", "is not supported yet", "does not recognize")):
        return ModelError(f"{source}: Optimum cannot export this architecture: {first}", _OURS)
    if "opset" in said.lower():
        return ModelError(
            f"{source}: Optimum cannot export with opset {opset}: {first}", "set export: {opset: 18}, Optimum's own"
        )
    return error
