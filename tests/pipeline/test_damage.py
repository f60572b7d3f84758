"""What is delivered, recommended or printed is what was published: a run makes damaged artifacts again."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import call, made, tiny
from toolchain.core.checked import COARSE_NS
from toolchain.core.store import Artifact, Store
from toolchain.core.verify import verify
from toolchain.measure import timing


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("kind", "name"), [("engine", "model.onnx"), ("evaluation", "evaluation.json")])
def test_a_run_makes_a_damaged_artifact_again_and_says_so(tmp_path: Path, kind: str, name: str) -> None:
    store = tiny().copy(tmp_path)
    damaged = next(a for a in Store(store).artifacts() if a.kind == kind)
    _flip(damaged.path / name)
    result = call("run", "tiny.yaml", "--store", "store", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert f"{name}: its content has changed" in result.stderr
    assert "is damaged, and is made again" in result.stderr
    assert 1 <= made(result) <= 3  # an engine that is tuned to other settings is measured again
    again = Store(store).find(kind, damaged.key)
    assert again is not None
    assert again.problems() == []


def test_a_damaged_artifact_is_not_delivered(tmp_path: Path) -> None:
    store = tiny().copy(tmp_path)
    engine = next(a for a in Store(store).artifacts() if a.kind == "engine")
    _flip(engine.path / "tokenizer.json")
    shown = [
        call(*command, "--store", "store", cwd=tmp_path)
        for command in (("show", engine.key), ("explain", engine.key), ("report", "tiny.yaml"))
    ]
    assert [(result.code, "its content has changed" in result.stderr, result.stdout) for result in shown] == [
        (1, True, "")
    ] * 3
    variant = "base" if "base" in engine.manifest["label"] else "dynamic-int8"
    command = ("build", "tiny.yaml", "--variant", variant, "-e", "onnxruntime", "-o", "out", "--store", "store")
    built = call(*command, cwd=tmp_path)
    assert (built.code, "is damaged, and is made again" in built.stderr) == (0, True)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert Artifact(tmp_path / "out", manifest).problems() == []


def test_a_worker_that_is_killed_while_it_times_leaves_no_timing_and_the_next_run_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiny().copy(tmp_path)
    shutil.rmtree(store / "timing")
    measure = timing._measure

    def killed(engine: timing._Engine, *arguments: Any) -> None:
        engine.process._process.kill()
        measure(engine, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(timing, "_measure", killed)
        result = call("run", "tiny.yaml", "--store", "store", cwd=tmp_path)
    assert (result.code, "was ended by SIGKILL" in result.stderr) == (1, True)
    assert not list((store / "timing").glob("*"))
    again = call("run", "tiny.yaml", "--store", "store", cwd=tmp_path)
    assert (again.code, made(again)) == (0, 1)


def test_what_is_built_again_is_the_same_and_leaves_no_second_artifact(tmp_path: Path) -> None:
    """Milliseconds of tuning stood in ``engine.json``: another digest each time, and all measurements once more."""
    store = tiny().copy(tmp_path)
    command = ("build", "tiny.yaml", "--variant", "base", "--store", "store", "--set", "onnxruntime.tune=false")
    statements = []
    for more in ((), ("--force", "build")):
        assert call(*command, *more, cwd=tmp_path).code == 0
        artifacts = list(Store(store).artifacts())
        statements.append({artifact.key: (artifact.digest, artifact.statement) for artifact in artifacts})
        assert verify(Store(store)).problems == {}
    assert statements[0] == statements[1]
    assert len(statements[0]) == 9
    tuned = next(artifact for artifact in artifacts if artifact.metrics.get("tuning"))
    assert "tuning" not in tuned.manifest["metrics"]
    assert '"ms"' not in (tuned.path / "engine.json").read_text("utf-8")


def test_a_hit_reads_no_file_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiny().copy(tmp_path)
    (store / ".checked.json").unlink()
    time.sleep(2 * COARSE_NS / 1e9)  # what was written a moment ago is not remembered
    read: list[Path] = []
    from toolchain.core import artifact

    real = artifact.digest
    monkeypatch.setattr(artifact, "digest", lambda path: read.append(path) or real(path))  # type: ignore[func-returns-value]
    for expected in (True, False):
        read.clear()
        assert made(call("run", "tiny.yaml", "--store", "store", cwd=tmp_path)) == 0
        assert bool(read) is expected
