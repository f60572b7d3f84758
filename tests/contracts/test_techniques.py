from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import inspect
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.command import python
from toolchain.cli.fields import describe
from toolchain.core import registry
from toolchain.core.stage import DIALECTS, StageConfig

ALL = [(folder, name) for folder in registry.FOLDERS for name in registry.names(folder)]
IDS = [f"{folder}/{name}" for folder, name in ALL]

#: Stages with one way to do them; their names are taken too.
SINGLE = registry.single()

#: What each kind of technique is called with, in order.
CALLS: dict[str, dict[str, str]] = {
    "augment": {"apply": "source out config context", "teachers": "config"},
    "compress": {"apply": "source out config context"},
    "optimize": {"apply": "source out config context"},
    "engines": {
        "fingerprint": "config",
        "build": "source out config context",
        "open_session": "folder threads",
    },
    "tasks": {"load": "config", "identity": "config"},
}

HEAVY = ("torch", "onnx", "onnxruntime", "transformers", "pydantic")

each_technique = pytest.mark.parametrize(("folder", "name"), ALL, ids=IDS)


@pytest.mark.parametrize("folder", ["augment", "compress", "optimize", "engines", "tasks"])
def test_folders_of_techniques_are_not_empty(folder: str) -> None:
    assert registry.names(folder)


@pytest.mark.parametrize("folder", sorted({folder for folder, _ in ALL}))
def test_a_module_of_a_technique_is_not_named_like_what_the_technique_defines(folder: str) -> None:
    """Importing the submodule would put it in the place of the function."""
    for name in registry.names(folder):
        module = registry.get(folder, name).module
        inside = {path.stem for path in (registry.PACKAGE / folder / name).glob("*.py")} - {"__init__"}
        tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        imported = [
            (node.module, alias.asname or alias.name)
            for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
        ]  # fmt: skip
        defined |= {bound for source, bound in imported if source != module.__name__}
        assert inside & defined == set(), f"{folder}/{name}"


def test_a_name_says_which_technique_is_meant() -> None:
    names = Counter([*(name for _, name in ALL), *SINGLE])
    assert [name for name, count in names.items() if count > 1] == []


def test_a_name_can_be_written_in_a_recipe_and_on_a_command_line() -> None:
    assert [name for _, name in ALL if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []


@each_technique
def test_it_says_in_a_line_what_it_does_and_has_a_version(folder: str, name: str) -> None:
    found = registry.get(folder, name)
    assert re.match(r"\S.{20,}[.:]$", found.summary)
    assert isinstance(found.module.VERSION, int)
    assert found.version >= 1


@each_technique
def test_its_settings_are_frozen_and_by_keyword_with_a_meaning_each(folder: str, name: str) -> None:
    check_config(registry.get(folder, name).config)


@pytest.mark.parametrize("name", SINGLE)
def test_stages_with_one_way_to_do_them_have_such_settings_too(name: str) -> None:
    found = registry.stage(name)
    assert found.version >= 1
    check_config(found.config)


def check_config(config: type[Any]) -> None:
    assert issubclass(config, StageConfig)
    declared: Any = config
    assert declared.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(config))
    for field in describe(config):
        assert len(str(field["meaning"])) >= 3, f"{field['name']} has no comment and no line under Attributes"
        assert "[" not in str(field["type"]), f"{field['name']}: {field['type']}"
        if field["default"] == "required":
            assert field["name"] in {"files", "folder", "dataset", "path"}, f"{field['name']} has no default"


@each_technique
def test_it_has_the_functions_that_its_stage_calls(folder: str, name: str) -> None:
    module = registry.get(folder, name).module
    assert folder in CALLS
    for function, arguments in CALLS[folder].items():
        assert tuple(inspect.signature(getattr(module, function)).parameters) == tuple(arguments.split())
        assert inspect.getdoc(getattr(module, function))


@each_technique
def test_the_libraries_that_its_key_holds_are_ones_that_an_extra_brings(folder: str, name: str) -> None:
    requirements = importlib.metadata.requires("toolchain") or []
    brought = {match[0] for text in requirements if (match := re.match(r"[\w.-]+", text))}
    assert len(brought) > 10
    assert set(registry.get(folder, name).libraries) <= brought


@pytest.mark.parametrize("name", registry.names("optimize"))
def test_a_graph_pass_declares_the_dialects_that_it_takes_and_gives(name: str) -> None:
    found = registry.get("optimize", name)
    assert found.module.TAKES
    assert set(found.module.TAKES) <= set(DIALECTS)
    for taken in found.module.TAKES:
        given = found.module.gives(found.config(), taken) if hasattr(found.module, "gives") else found.module.GIVES
        assert given in DIALECTS


@pytest.mark.parametrize("name", registry.names("engines"))
def test_an_engine_declares_what_it_accepts(name: str) -> None:
    accepts = registry.get("engines", name).module.ACCEPTS
    assert accepts
    assert set(accepts) <= {*DIALECTS, "checkpoint"}


@each_technique
def test_at_module_level_it_imports_the_standard_library_numpy_and_this_package(folder: str, name: str) -> None:
    path = Path(str(registry.get(folder, name).module.__file__))
    tree = ast.parse(path.read_text("utf-8"))
    named = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    named += [item.name for node in tree.body if isinstance(node, ast.Import) for item in node.names]
    tops = {name.partition(".")[0] for name in named}
    assert tops - {*sys.stdlib_module_names, "numpy", "toolchain"} == set()


@pytest.mark.parametrize("folder", sorted({folder for folder, _ in ALL}))
def test_importing_techniques_loads_no_framework(folder: str) -> None:
    code = (
        "import sys\n"
        "from toolchain.core import registry\n"
        f"found = [registry.get({folder!r}, name).config for name in registry.names({folder!r})]\n"
        "assert found\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
