"""Engine folders from strangers: nothing outside of them is opened, and only what is named is taken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import context, engine_folder
from tests.shared import once
from tests.tiny import call, tiny
from toolchain.core.errors import ToolchainError
from toolchain.deliver.health import examine, trust_note
from toolchain.engines.shared.artifact import EngineFile
from toolchain.model import adopt
from toolchain.model.door import check_published
from toolchain.pipeline.items import engine_in
from toolchain.runtime.predictor import Predictor

#: What the manifest of every artifact has.
BARE = {"key": "0" * 32, "kind": "engine", "files": {}, "parts": {}, "parents": [], "metrics": {}}


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(once("engine", engine_folder), tmp_path / "stranger"))
    (folder / "manifest.json").unlink(missing_ok=True)
    (tmp_path / "secret").write_text("{}")
    return folder


def _take(folder: Path) -> None:
    (folder.parent / "out").mkdir(exist_ok=True)
    adopt.apply(adopt.Config(path=str(folder)), folder.parent / "out", context(folder.parent / "work"))


DOORS: list[Callable[[Path], object]] = [
    Predictor, examine, lambda folder: engine_in(str(folder)), _take, lambda f: adopt.refusal(str(f)),
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS, ids=["predictor", "doctor", "recipe", "adopt", "refusal"])
@pytest.mark.parametrize("name", ["tokenizer.json", "interface.json", "engine.json", "config.json", "model.onnx"])
def test_a_link_is_refused_at_every_door(stranger: Path, name: str, door: Callable[[Path], object]) -> None:
    (stranger / name).unlink(missing_ok=True)
    (stranger / name).symlink_to(stranger.parent / "secret")
    with pytest.raises(ToolchainError, match=f"{name} is a symbolic link to"):
        door(stranger)


@pytest.mark.parametrize("name", ["tokenizer.json", "engine.json", "model.onnx"])
def test_a_named_pipe_is_refused_and_not_waited_for(stranger: Path, name: str) -> None:
    (stranger / name).unlink()
    os.mkfifo(stranger / name)
    with pytest.raises(ToolchainError, match=f"{name} is a named pipe"):
        Predictor(stranger)


def test_only_what_is_named_is_copied(stranger: Path) -> None:
    (stranger / "notes.txt").symlink_to("/etc/passwd")
    (stranger / "evil.so").write_bytes(b"code")
    os.mkfifo(stranger / "pipe")
    _take(stranger)
    taken = {path.name for path in (stranger.parent / "out").iterdir()}
    named = set(json.loads((stranger / "engine.json").read_text())["files"])
    assert taken == named | {path.name for path in stranger.glob("*.json")}
    assert {"engine.json", "tokenizer.json", "interface.json", "model.onnx"} <= taken


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", 5])
def test_a_manifest_s_names_stay_inside(stranger: Path, name: object) -> None:
    manifest = BARE | {"files": {str(name): {"bytes": 2, "sha256": "0" * 64}}}
    (stranger / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ToolchainError, match=r"allowed are files inside|missing"):
        check_published(stranger)


def test_a_digest_from_elsewhere_decides(tmp_path: Path) -> None:
    tiny().copy(tmp_path)
    argv = ("build", "tiny.yaml", "--store", "store", "--variant", "base", "--engine", "onnxruntime", "-o", "out")
    done = call(*argv, "--json", cwd=tmp_path)
    digest, out = done.json[0]["digest"], tmp_path / "out"
    assert Predictor(out, digest=digest.upper()).labels == ("negative", "positive")
    assert examine(out, digest=digest)["note"] is None
    shown = call("doctor", "--engine", "out", "--digest", digest, cwd=tmp_path)
    assert shown.code == 0
    for name in ("more.bin", "history.json"):
        (out / name).write_text("changed")
        with pytest.raises(ToolchainError, match=f"out is not the engine that was named: .*{digest} was expected"):
            Predictor(out, digest=digest)
        assert call("doctor", "--engine", "out", "--digest", digest, cwd=tmp_path).code == 1
        (out / "more.bin").unlink(missing_ok=True)
    assert call("doctor", "--digest", digest, cwd=tmp_path).code == 2


def test_it_is_said_that_a_plan_is_trusted() -> None:
    plan = EngineFile("tensorrt", ("model.plan",), {}, {})
    assert "native code, which is trusted" in str(trust_note(plan))
    assert "native code, which is trusted" in str(trust_note(EngineFile("onnxruntime", ("m",), {}, {"plans": {}})))
    assert trust_note(EngineFile("onnxruntime", ("model.onnx",), {}, {})) is None
