from __future__ import annotations

import ast
import dataclasses
import hashlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from toolchain.core import registry, source
from toolchain.core.errors import RecipeError


@pytest.mark.parametrize("folder", registry.FOLDERS)
def test_the_files_and_packages_of_a_folder_are_the_registry(folder: str) -> None:
    entries = {path.name.removesuffix(".py") for path in (registry.PACKAGE / folder).iterdir()}
    assert set(registry.names(folder)) == entries - {"__init__", "__pycache__", "shared"}


def test_a_technique_is_a_file_or_a_package() -> None:
    assert Path(str(registry.get("engines", "pytorch").module.__file__)).name == "pytorch.py"
    assert Path(str(registry.get("engines", "onnxruntime").module.__file__)).name == "__init__.py"


def test_what_techniques_share_is_no_technique() -> None:
    assert (registry.PACKAGE / "engines/shared/__init__.py").is_file()
    with pytest.raises(RecipeError, match="unknown engine 'shared'"):
        registry.get("engines", "shared")


def test_a_technique_tells_its_version_settings_libraries_and_source() -> None:
    technique = registry.get("optimize", "dynamic_int8")
    assert technique.version >= 1
    assert dataclasses.is_dataclass(technique.config)
    assert "onnxruntime" in technique.libraries
    assert "Int8 weights" in technique.summary
    assert technique.source_digest != registry.get("optimize", "static_int8").source_digest


@pytest.mark.parametrize(
    ("folder", "name", "changed", "counts"),
    [
        ("optimize", "dynamic_int8", "optimize/dynamic_int8.py", True),
        ("optimize", "dynamic_int8", "optimize/shared/int8.py", True),
        ("optimize", "dynamic_int8", "model/graph.py", True),
        ("optimize", "dynamic_int8", "optimize/static_int8/__init__.py", False),
        ("optimize", "dynamic_int8", "core/stage.py", False),
        ("engines", "onnxruntime", "engines/onnxruntime/fusion.py", True),  # by way of lowering
        ("engines", "openvino", "engines/openvino/convert_child.py", True),  # started, not imported
        ("engines", "openvino", "engines/onnxruntime/fusion.py", False),
    ],
)
def test_the_source_of_a_technique_is_its_package_and_all_that_it_imports(
    folder: str, name: str, changed: str, counts: bool, tmp_path: Path
) -> None:
    package = Path(shutil.copytree(registry.PACKAGE, tmp_path / "toolchain", ignore=shutil.ignore_patterns("*.pyc")))
    with (package / changed).open("a", encoding="utf-8") as file:
        file.write("\n#")
    technique = registry.get(folder, name)
    assert (source.digest(package, technique.module.__name__) != technique.source_digest) is counts


def test_imports_are_those_of_the_syntax_tree() -> None:
    modules = sorted(registry.PACKAGE.rglob("*.py"))
    assert len(modules) > 200
    more = set()
    for path in modules:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
        named = [item.name for node in nodes if isinstance(node, ast.Import) for item in node.names]
        named += [
            f"{node.module}.{item.name}" for node in nodes if isinstance(node, ast.ImportFrom) for item in node.names
        ]
        ours = {each for each in named if each.partition(".")[0] == "toolchain"}
        assert ours <= source.imports(path.read_bytes()), path
        more |= source.imports(path.read_bytes()) - ours
    assert more == {"toolchain.measure.worker.main"}  # what a process that measure/process.py starts is told to import


@pytest.mark.parametrize("name", registry.single())
def test_each_stage_with_one_way_to_do_it_has_its_module(name: str) -> None:
    found = registry.stage(name)
    assert (found.name, found.version >= 1, dataclasses.is_dataclass(found.config)) == (name, True, True)


def test_a_technique_belongs_to_one_folder() -> None:
    names = [name for folder in registry.FOLDERS for name in registry.names(folder)]
    assert len(names) == len(set(names)) >= 8
    assert registry.folder_of("static_int8") == "optimize"
    assert registry.folder_of("onnxruntime") is None


def test_an_unknown_name_is_an_error_that_names_what_is_close() -> None:
    with pytest.raises(RecipeError, match="unknown engine 'onnx-runtime'") as caught:
        registry.get("engines", "onnx-runtime")
    assert caught.value.hint.startswith("did you mean 'onnxruntime'? known: ")


def test_suggest_names_everything_where_nothing_is_close() -> None:
    assert registry.suggest("xyz", ["b", "a"]) == "known: a, b"
    assert registry.suggest("xyz", []) == "known: none"


def test_a_technique_that_a_program_defines_has_no_source() -> None:
    defined = registry.Technique("toy", "optimize", ModuleType("toolchain.optimize.toy"))
    assert defined.source_digest == hashlib.sha256(b"").hexdigest()
