from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.command import ROOT, python
from toolchain.core import registry

PACKAGE = ROOT / "toolchain"

#: Rooms by what they may import: a module imports what stands in an earlier line, or in its own.
ORDER = (
    ("core", "certainty"),
    ("kinds",),
    ("tasks", "model", "engines"),
    ("augment", "compress", "optimize", "runtime"),
    ("layers", "measure"),
    ("pipeline",),
    ("deliver",),
    ("cli",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}

#: The ground that the whole package stands on: its version.
GROUND = "toolchain"

HEAVY = {"torch", "transformers", "onnx", "onnxruntime"}

MODULES = sorted(PACKAGE.rglob("*.py"))

#: Runs the command line, then says on the last line of stderr what was loaded.
COMMAND = """
import sys
from toolchain.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    if parts in (("__main__.py",), ("api.py",)):  # they stand above everything, as the command line does
        return "cli"
    return parts[0] if len(parts) > 1 else GROUND


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text("utf-8"))))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of this package in a file, wherever it stands: the line, and the dotted name."""
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module and node.module.partition(".")[0] == "toolchain":
                yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)
        elif isinstance(node, ast.Import):
            named = [name.name for name in node.names]
            yield from ((node.lineno, name) for name in named if name.partition(".")[0] == "toolchain")


def typed_lines(path: Path) -> set[int]:
    """Lines that only type checkers read."""
    return {
        line
        for node in nodes_of(path)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def edges() -> dict[tuple[str, str], list[str]]:
    """(room, imported room) → where that is done."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in MODULES:
        # What the package names for types alone it loads from above when it is asked for: the Python API.
        typed = typed_lines(path) if path == PACKAGE / "__init__.py" else set()
        for line, name in imports(path):
            if line in typed:
                continue
            target = name.split(".")[1]
            target = GROUND if target.startswith("__") else target
            found[room_of(path), target].append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return found


def test_every_room_of_the_package_has_its_place_in_the_order() -> None:
    rooms = {room_of(path) for path in MODULES} - {GROUND}
    assert len(rooms) >= 10
    assert rooms <= set(RANK)


def test_imports_point_one_way() -> None:
    found = edges()
    assert len(found) >= 20
    wrong = [
        place
        for (room, target), places in found.items()
        for place in places
        if target not in (GROUND, room) and (room == GROUND or RANK[target] > RANK[room])
    ]
    assert wrong == []


def test_rooms_of_equal_rank_keep_an_order_too() -> None:
    level = {(a, b) for a, b in edges() if a != b and GROUND not in (a, b) and RANK[a] == RANK[b]}
    assert level <= {("engines", "model")}


def test_statistics_import_nothing_of_this_package() -> None:
    assert {target for room, target in edges() if room == "certainty"} == {"certainty"}


def test_no_private_module_or_name_is_imported_across_folders() -> None:
    crossing = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES
        for line, name in imports(path)
        if any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    ]
    assert crossing == []


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count; those of types alone (``TYPE_CHECKING``) do not."""
    names = {dotted(path) for path in MODULES}
    needs = {}
    for path in MODULES:
        typed = typed_lines(path)
        named = {name for line, name in imports(path) if line not in typed}
        found = {name if name in names else name.rpartition(".")[0] for name in named}
        needs[dotted(path)] = found & names - {dotted(path)}
    assert sum(map(len, needs.values())) > 500
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert sorted(needs) == []


def loaded(*arguments: str | Path) -> set[str]:
    """Modules that a command has loaded, by their first name."""
    done = python(COMMAND, *arguments)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["completion", "bash"]])
def test_help_loads_nothing_that_takes_time(arguments: list[str]) -> None:
    found = loaded(*arguments)
    assert "click" in found
    assert not found & (HEAVY | {"numpy", "pydantic", "rich", "ruamel", "tokenizers", "safetensors"})


@pytest.mark.parametrize("command", ["validate", "show"])
def test_reading_a_recipe_loads_no_framework(command: str) -> None:
    found = loaded(command, ROOT / "recipes/smoke.yaml")
    assert "pydantic" in found
    assert not found & HEAVY


@pytest.mark.parametrize("command", ["run", "report", "explain"])
def test_a_run_that_is_all_hits_loads_no_framework(command: str, smoke_store: Path) -> None:
    found = loaded(command, ROOT / "recipes/smoke.yaml", "--store", smoke_store)
    assert "pydantic" in found
    assert not found & (HEAVY | {"datasets", "tokenizers"})


def test_the_runtime_imports_without_what_is_absent_where_a_bundle_is_deployed() -> None:
    code = (
        "import importlib, pkgutil, sys, toolchain.runtime as runtime\n"
        "names = [found.name for found in pkgutil.walk_packages(runtime.__path__, 'toolchain.runtime.')]\n"
        "assert len(names) >= 2, names\n"
        "for name in names: importlib.import_module(name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {*HEAVY, "datasets", "accelerate", "pydantic", "ruamel", "rich"}


#: Names of engines outside of ``engines/``, which are none of an engine's own facts: by file, with the reason.
NAMED_ELSEWHERE = {
    "core/registry.py": "the one engine that is taken where nobody names one",
    "api.py": "the same, in signatures that help() shows",
    "optimize/mixed/__init__.py": "a setting's type names the engines that it times by",
    "model/checkpoint.py": "a logger of that name",
    "deliver/report/page/lines.py": "names of places in reports, also of other versions and machines",
}


def engine_names(path: Path) -> Iterator[str]:
    """The string constants of a file that are an engine's name and no package's or distribution's."""
    tree = ast.parse(path.read_text("utf-8"))
    packages = {
        id(argument) for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "require"
        for argument in node.args
    }  # fmt: skip
    packages |= {
        id(item) for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "LIBRARIES"
        for item in ast.walk(node.value)
    }  # fmt: skip
    names = set(registry.names("engines"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in names and id(node) not in packages:
            yield f"{path.relative_to(PACKAGE)}:{node.lineno} {node.value}"


def test_an_engine_is_named_in_its_own_folder_alone() -> None:
    outside = [path for path in MODULES if room_of(path) != "engines"]
    named = {path: list(engine_names(path)) for path in outside}
    allowed = {path for path in outside if str(path.relative_to(PACKAGE)) in NAMED_ELSEWHERE}
    assert {str(path.relative_to(PACKAGE)) for path in allowed if named[path]} == set(NAMED_ELSEWHERE)
    assert [place for path in outside if path not in allowed for place in named[path]] == []
