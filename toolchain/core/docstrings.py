"""Docstrings that are shown to users, also where Python leaves them out (``python -OO``, ``PYTHONOPTIMIZE=2``)."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

#: A paragraph none of whose lines is indented, an item of a list, or a row of a table.
_PROSE = re.compile(r"(?:(?![\s*|>-])[^\n]*(?:\n|$))*")


def reflowed(text: str) -> str:
    """Return a text with each paragraph on one line, for a terminal to wrap; lists and tables stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        " ".join(paragraph.split("\n")) if _PROSE.fullmatch(paragraph) else paragraph for paragraph in paragraphs
    )


def docstring(owner: ModuleType | type | Callable[..., Any]) -> str:
    """Return the docstring of a module, class or function, from its source if need be; empty if it has none."""
    if owner.__doc__ and not owner.__doc__.startswith(f"{owner.__name__}("):  # what dataclasses put in its place
        return inspect.cleandoc(owner.__doc__)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    except (OSError, TypeError, SyntaxError):  # no source is here, as in a frozen program
        return ""
    node = tree if isinstance(owner, ModuleType) else tree.body[0]
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return ""
    return ast.get_docstring(node) or ""
