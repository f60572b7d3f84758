"""The recipes that come with the package: found by name where no such file is at hand."""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path

from toolchain.core.registry import PACKAGE


@cache
def folder() -> Path:
    """Return the folder of the recipes: in the installed package, or beside it in a checkout of the sources."""
    installed = PACKAGE / "recipes"
    return installed if installed.is_dir() else PACKAGE.parent / "recipes"


def recipes() -> list[Path]:
    """Return the recipes that come with the package, sorted by name."""
    return sorted(folder().glob("*.yaml"))


def locate(path: Path) -> Path:
    """Return the file that a recipe's name means: itself where it exists, else the one that comes with the package.

    Args:
        path: A file, ``NAME`` or ``recipes/NAME.yaml``.
    """
    if path.exists() or path.parent not in (Path(), Path("recipes")) or path.suffix not in ("", ".yaml"):
        return path
    candidate = folder() / f"{path.stem}.yaml"
    return candidate if candidate.is_file() else path


def is_recipe(target: str) -> bool:
    """Return whether a command's target is a recipe rather than a model, an artifact or a report."""
    path = Path(target)
    return path.suffix in (".yaml", ".yml") or locate(path) != path


def summary(path: Path) -> str:
    """Return what a recipe is for: the first sentence of the comment that it begins with."""
    lines = path.read_text("utf-8", errors="replace").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    words = " ".join(line.lstrip("# ") for line in comment)
    return re.split(r"(?<=[.?!])\s", words, maxsplit=1)[0]
