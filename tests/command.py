"""Runs the command line as a user does: in a process of its own, from the repository's root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


Done = subprocess.CompletedProcess[str]


def toolchain(*arguments: str | Path, folder: Path = ROOT, path: Path | None = None) -> Done:
    """Runs ``toolchain ARGUMENTS``.

    Args:
        arguments: What stands after ``toolchain``.
        folder: The current folder.
        path: Folder that holds another copy of the package.
    """
    code = "import sys; from toolchain.cli import main; main(sys.argv[1:])"
    return python(code, *arguments, folder=folder, path=path)


def python(code: str, *arguments: str | Path, folder: Path = ROOT, path: Path | None = None) -> Done:
    """Runs a program in a fresh interpreter."""
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    command: Sequence[str] = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
