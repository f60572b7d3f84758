"""Kinds of task: what a model of a kind reads, answers, learns from and is judged by. A kind is one file.

A folder's ``interface.json`` names its kind, and a task's examples name theirs; where neither does, it is
classification. ``contract.py`` declares what a kind may define.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from toolchain.core import documents, registry
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import ModelError
from toolchain.kinds import classification
from toolchain.kinds.contract import Kind

INTERFACE_FILE = "interface.json"


@cache
def get(name: str) -> Kind:
    """Return a kind by the name of its file.

    Raises:
        RecipeError: There is none of that name.
    """
    if name == CLASSIFICATION:  # imported by name above, so that its source counts as that of whatever uses kinds
        return Kind(classification)
    return registry.get("kinds", name).of(Kind)


def named(interface: Mapping[str, Any]) -> Kind:
    """Return the kind that an ``interface.json`` names; classification where it names none."""
    return get(str(interface.get("kind", CLASSIFICATION)))


def of_folder(folder: Path) -> Kind:
    """Return the kind of a checkpoint, graph or engine; classification where the folder has no ``interface.json``.

    Raises:
        ModelError: ``interface.json`` is damaged.
    """
    path = folder / INTERFACE_FILE
    return named(documents.read_object(path, ModelError) if path.is_file() else {})


def graph_names(kind: Kind, there: Sequence[str]) -> tuple[str, ...]:
    """Return what a graph calls each output of a kind: the same, or what stands in its place where a name is missing.

    Args:
        kind: The kind.
        there: The graph's outputs, in its order.
    """
    names = tuple(output.name for output in kind.OUTPUTS)
    return names if set(names) <= set(there) else tuple(there[: len(names)])
