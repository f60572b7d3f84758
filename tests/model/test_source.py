from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.builders import weights
from toolchain.core.errors import ModelError
from toolchain.model import source


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    weights(path / "model.safetensors", "w")
    return path


def test_a_folder_is_found_and_known_by_its_files(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "mine")
    (folder / "notes.md").write_text("changes nothing")
    found = source.resolve(str(folder))
    assert (found.kind, found.folder) == ("folder", folder)
    assert set(found.identity["files"]) == {"config.json", "model.safetensors"}
    copy = _folder(tmp_path / "other" / "copy")
    assert source.resolve(str(copy)).identity == found.identity
    weights(copy / "model.safetensors", "w", size=8)
    assert source.resolve(str(copy)).identity != found.identity


def test_a_relative_folder_may_lie_beside_the_recipe(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "models" / "mine")
    assert source.resolve("models/mine", tmp_path).folder == folder


def test_a_folder_inside_a_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pretrained_pkg").mkdir()
    (tmp_path / "pretrained_pkg" / "__init__.py").touch()
    folder = _folder(tmp_path / "pretrained_pkg" / "model")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source.resolve("package:pretrained_pkg/model").folder == folder
    assert "pretrained_pkg" not in sys.modules, "its code is not run"


@pytest.mark.parametrize("spec", ["bert-base-uncased", "google-bert/bert-base-uncased", "a/b@v1.0", "a/b@refs/pr/3"])
def test_a_hub_id_is_taken_without_asking_the_network(spec: str) -> None:
    found = source.resolve(spec)
    assert (found.kind, found.revision) == ("hub", spec.partition("@")[2] or "main")


def test_a_mistyped_path_is_a_missing_folder_and_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _folder(tmp_path / "models" / "bert")
    _folder(tmp_path / "recipes" / "mine")
    cases = {
        "models/berrt": ("the folder models is here, without berrt", "did you mean models/bert?"),
        "mine/berrt": ("", ""),  # may be on the hub
        "modelz": ("a hub id is of the form org/name", "did you mean models?"),
        "org/model.onnx": ("a name that ends in .onnx is a file's", "give a folder"),
        "mein": ("a hub id is of the form org/name", "did you mean"),
    }
    for spec, (evidence, hint) in cases.items():
        if not evidence:
            assert source.resolve(spec).kind == "hub"
            continue
        with pytest.raises(ModelError, match="no such folder") as error:
            source.resolve(spec, tmp_path / "recipes")
        assert evidence in error.value.message
        assert hint in error.value.hint


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "num_hidden_groups"])
def test_a_config_without_numbers_has_no_shape_yet(tmp_path: Path, name: str) -> None:
    folder = _folder(tmp_path / "mine")
    config = {"num_hidden_layers": 2, "hidden_size": 64, name: None}
    (folder / "config.json").write_text(json.dumps(config))
    assert source.shape(source.Source(str(folder), "folder", folder)) is None


def test_a_new_model_is_known_by_its_specification() -> None:
    found = source.resolve("scratch:bert-2x128")
    assert (found.kind, found.identity) == ("scratch", {"scratch": "scratch:bert-2x128", "revision": ""})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scratch:bert", "not of the form scratch:ARCHITECTURE-LAYERSxWIDTH"),
        ("package:no_such_module/model", "'no_such_module' is not installed"),
        ("package:json.decoder", "is not installed"),
        ("./missing", "no such folder"),
        ("a/b/c", "no such folder, and not a hub id"),
        ("https://example.org/model", "no such folder, and not a hub id"),
    ],
)
def test_what_is_none_of_these_is_an_error(spec: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        source.resolve(spec)
    assert message in caught.value.message


def test_weights_as_a_pickle_are_refused_before_anything_loads_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match="pickle"):
        source.resolve(str(tmp_path))
