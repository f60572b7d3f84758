from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from toolchain.core import registry
from toolchain.core.errors import RecipeError


def test_the_files_of_a_folder_are_the_registry() -> None:
    found = {p.stem for p in (registry.PACKAGE / "optimize").glob("*.py") if not p.stem.startswith("_")}
    assert set(registry.names("optimize")) == found
    assert {"dynamic_int8", "static_int8"} <= found


def test_files_that_start_with_an_underscore_are_no_techniques() -> None:
    assert not [name for folder in registry.FOLDERS for name in registry.names(folder) if name.startswith("_")]


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
    for name, changes in (("dynamic_int8.py", True), ("_int8.py", True), ("graph.py", True), ("stages.py", False)):
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
