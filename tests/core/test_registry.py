from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from toolchain.core import registry
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


def test_the_source_of_a_technique_is_its_file_and_what_it_imports_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    technique = registry.get("optimize", "dynamic_int8")
    before, read = technique.source_digest, Path.read_bytes
    for name, changes in (("dynamic_int8.py", True), ("int8.py", True), ("graph.py", True), ("stages.py", False)):
        monkeypatch.setattr(Path, "read_bytes", lambda path, name=name: read(path) + b"#" * (path.name == name))
        assert (technique.source_digest != before) is changes


@pytest.mark.parametrize("name", registry.SINGLE)
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
