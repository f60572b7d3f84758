"""Draws the map of the house from the code: which rooms the package has, what each is for, and what it imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "toolchain"


def page() -> Iterator[str]:
    """Yield the paragraphs of the page."""
    rooms = {path.name: path for path in sorted(PACKAGE.iterdir()) if (path / "__init__.py").is_file()}
    imported = {room: _imported(path) & rooms.keys() - {room} for room, path in rooms.items()}
    floors = _floors(imported)
    yield "# The house"
    yield (
        "This page says where a line of code belongs. Each folder of `toolchain/` is a room. A room imports only from "
        "the floors below it; a test fails where one does not. The command line and `api.py` stand on top."
    )
    drawn = [f"{number + 1}  {'   '.join(floor)}" for number, floor in enumerate(floors)]
    yield "```text\n" + "\n".join(reversed(drawn)) + "\n```"
    rows = ["| room | what it is for | imports |", "| --- | --- | --- |"]
    for room in (room for floor in reversed(floors) for room in floor):
        below = ", ".join(f"`{name}`" for name in sorted(imported[room])) or "no other room"
        rows.append(f"| [`{room}`](#{room}) | {_summary(rooms[room] / '__init__.py')} | {below} |")
    yield "\n".join(rows)
    for room in (room for floor in floors for room in floor):
        yield f"## {room}"
        yield "\n".join(_modules(rooms[room]))


def _imported(room: Path) -> set[str]:
    """Return the rooms that a room's modules import, wherever the import stands, but for those of type checkers."""
    names: set[str] = set()
    for path in room.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        branches = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
        typed = [node for node in branches if "TYPE_CHECKING" in ast.unparse(node.test)]
        skipped = {id(inner) for node in typed for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or id(node) in skipped:
                continue
            module = f"{node.module or ''}."
            if module == "toolchain.":
                names |= {name.name for name in node.names}
            elif module.startswith("toolchain."):
                names.add(module.split(".")[1])
    return names


def _floors(imported: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the rooms by floor: each stands just above the highest room that it imports.

    Raises:
        ValueError: Two rooms import each other.
    """
    floors: list[list[str]] = []
    placed: set[str] = set()
    while placed != imported.keys():
        floor = sorted(room for room, below in imported.items() if room not in placed and below <= placed)
        if not floor:
            raise ValueError(f"import each other: {', '.join(sorted(imported.keys() - placed))}")
        floors.append(floor)
        placed |= set(floor)
    return floors


def _modules(room: Path) -> Iterator[str]:
    """Yield a list item for each module of a room, with the first sentence of what it says of itself."""
    for path in sorted(room.rglob("*.py")):
        if path.name != "__init__.py":
            yield f"- `{path.relative_to(room).with_suffix('').as_posix()}`: {_summary(path)}"
        elif path.parent != room:
            yield f"- `{path.parent.relative_to(room).as_posix()}/`: {_summary(path)}"


def _summary(path: Path) -> str:
    """Return the first line of a module's docstring, as Markdown."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", first).replace("``", "`").replace("|", "\\|").replace("<", "&lt;")
