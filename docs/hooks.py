"""Draws the tables of hooks from ``core/hooks.py``: what a technique's file may define."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from toolchain.core import hooks


def page() -> Iterator[str]:
    """Yield the paragraphs of the page."""
    yield "# Hooks"
    yield (
        "A technique is one file. It defines the functions and constants below, and no other public name: the registry "
        "refuses a file that does, or that lacks a required hook. `toolchain/core/hooks.py` declares them with types."
    )
    yield "## Every technique"
    yield _table(hooks.Declared)
    for folder, room in hooks.ROOMS.items():
        yield f"## {folder}/"
        yield (room.__doc__ or "").splitlines()[0].replace("``", "`")
        yield _table(room)


def _table(room: type[hooks.Declared]) -> str:
    """Return the table of the hooks that a declaration adds to those of every technique."""
    comments = _comments(room)
    rows = ["| hook | if it is left out | meaning |", "| --- | --- | --- |"]
    for name in [name for name in dict.fromkeys((*room.__annotations__, *vars(room))) if not name.startswith("_")]:
        value = inspect.getattr_static(room, name, None)
        if inspect.isfunction(value):
            arguments = ", ".join(list(inspect.signature(value).parameters)[1:])
            shown, meaning = f"{name}({arguments})", " ".join(_first_paragraph(value).split())
        else:
            shown, meaning = name, comments[name]
        meaning = re.sub("``(.+?)``", r"`\1`", meaning)
        rows.append(f"| `{shown}` | {_default(room, name)} | {meaning} |")
    return "\n".join(rows)


def _first_paragraph(function: object) -> str:
    """Return a docstring without its sections: a cell of a table has one paragraph."""
    return (inspect.getdoc(function) or "").split("\n\n")[0]


def _default(room: type[hooks.Declared], name: str) -> str:
    required = hooks.required(room)
    either = next((each for each in required if name in each.split(" or ")), "")
    if either:
        return "required" if either == name else f"required: {either}"
    value = inspect.getattr_static(room, name, None)
    if not inspect.isfunction(value):
        return f"`{value!r}`" if isinstance(value, str | tuple) else "none"
    source = inspect.getsource(value)
    if re.search(r"^ +raise NotImplementedError$", source, re.MULTILINE):
        return "no default"
    returned = re.findall(r"^ +return (.+)$", source, re.MULTILINE)
    return f"`{returned[-1]}`" if returned else "none"


def _comments(owner: type[hooks.Declared]) -> dict[str, str]:
    """Return what the comments above constants say."""
    source = inspect.getsource(owner)
    return {
        match[2]: re.sub(r"\s+", " ", re.sub(r"^ +#: ?", "", match[1], flags=re.MULTILINE)).strip()
        for match in re.finditer(r"((?:^ +#: .*\n)+)^ +(\w+):", source, re.MULTILINE)
    }
