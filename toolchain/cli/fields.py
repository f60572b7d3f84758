"""A technique's settings as a person reads them: name, type with its range, default, meaning."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

from toolchain.core.docstrings import docstring
from toolchain.core.stage import StageConfig
from toolchain.model.train import TrainConfig
from toolchain.pipeline.settings import changed, default_of, plain

_SIGNS = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}


def describe(config: type[Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    """The settings of a ``Config``, in the order in which they are declared; those of a setting's own come behind it.

    Args:
        config: A dataclass whose fields carry their ranges, and a ``#:`` comment or a line under ``Attributes`` each.
        prefix: Stands before every name.

    Yields:
        name, type, default (``required`` where there is none) and meaning.
    """
    meanings = _meanings(config)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        default = default_of(field)
        default = "required" if default is dataclasses.MISSING else default
        inner = _settings_in(hints[field.name])
        kind = type_text(str(field.type))
        if inner is not None:
            of = " of finetune's settings" if inner is TrainConfig else ""
            kind = kind.replace(inner.__name__, f"mapping{of}")
            default = changed(default) if isinstance(default, StageConfig) else default
        yield {
            "name": f"{prefix}{field.name}", "type": kind, "default": default, "meaning": meanings.get(field.name, ""),
        }  # fmt: skip
        if inner is not None and inner is not TrainConfig:
            yield from describe(inner, f"{prefix}{field.name}.")


def written(value: Any) -> str:
    """A default as it is written in a recipe."""
    plain_value = plain(value)
    if isinstance(plain_value, dict):
        return "{" + ", ".join(f"{name}: {written(item)}" for name, item in plain_value.items()) + "}"
    return plain_value if isinstance(plain_value, str) and plain_value else json.dumps(plain_value)


def _settings_in(hint: Any) -> type[Any] | None:
    """The class of settings that a field holds, alone or in a union."""
    held = [hint, *typing.get_args(hint)]
    return next((kind for kind in held if isinstance(kind, type) and issubclass(kind, StageConfig)), None)


def type_text(annotation: str) -> str:
    """An annotation in words: ``Annotated[int, Ge(1), Le(9)] | None`` is ``int, ≥ 1, ≤ 9, or null``."""
    return _words(ast.parse(annotation, mode="eval").body)


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        left, right = _words(node.left), _words(node.right)
        return f"{left}, or {right}" if "," in left else f"{left} or {right}"
    if isinstance(node, ast.Constant):
        return "null" if node.value is None else str(node.value)
    if not isinstance(node, ast.Subscript):
        return ast.unparse(node)
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    kind = ast.unparse(node.value)
    if kind == "Annotated":
        return ", ".join([_words(items[0]), *(_range(item) for item in items[1:])])
    if kind == "Literal":
        return " or ".join(filter(None, [", ".join(map(_words, items[:-1])), _words(items[-1])]))
    if kind in ("tuple", "list"):
        return f"list of {_one(items[0])}"
    if kind == "dict":
        return f"mapping of {_one(items[0])} to {_one(items[1])}"
    return ast.unparse(node)


def _one(node: ast.expr) -> str:
    """In brackets where it has commas."""
    text = _words(node)
    return f"({text})" if "," in text else text


def _range(node: ast.expr) -> str:
    """``Ge(1)`` is ``≥ 1``, ``MinLen(2)`` is ``at least 2``."""
    if not isinstance(node, ast.Call):
        return ast.unparse(node)
    name, value = ast.unparse(node.func), ast.literal_eval(node.args[0])
    if name == "MinLen":
        return "not empty" if value == 1 else f"at least {value}"
    return f"{_SIGNS[name]} {value:,}" if name in _SIGNS else ast.unparse(node)


def _meanings(config: type[Any]) -> dict[str, str]:
    """What each field's comment, or its line under ``Attributes``, says; a base class's are inherited."""
    meanings: dict[str, str] = {}
    for owner in reversed(config.__mro__):
        attributes = docstring(owner).partition("Attributes:")[2]
        for match in re.finditer(r"^    (\w+): (.*(?:\n        .*)*)", attributes, re.MULTILINE):
            meanings[match[1]] = re.sub(r"\s+", " ", match[2])
        if dataclasses.is_dataclass(owner):
            source = inspect.getsource(owner)
            for match in re.finditer(r"((?:^ +#: .*\n)+)^ +(\w+):", source, re.MULTILINE):
                meanings[match[2]] = re.sub(r"\s+", " ", re.sub(r"^ +#: ?", "", match[1], flags=re.MULTILINE)).strip()
    return meanings
