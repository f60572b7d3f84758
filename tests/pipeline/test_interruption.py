from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from toolchain.core.store import Artifact, Store

#: One layer, 8 steps an epoch, and epochs enough to be interrupted within a few seconds of training.
RECIPE = """\
name: long
task: {reviews: {train_size: 64, dev_size: 16, test_size: 24}}
model: scratch:bert-1x32
stages:
  - finetune: {epochs: 90, learning_rate: 1e-3, batch_size: 8}
variants: {base: [export]}
"""
PATIENCE_S = 120.0

pytestmark = pytest.mark.slow


def _command(folder: Path) -> list[str]:
    code = "import sys; from toolchain.cli import main; main(sys.argv[1:])"
    return [sys.executable, "-c", code, "finetune", "long.yaml", "--store", str(folder / "store"), "--threads", "1"]


@contextmanager
def _started(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The training in a process of its own, and the lines that it says, as it says them."""
    (folder / "long.yaml").write_text(RECIPE)
    process = subprocess.Popen(_command(folder), cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines: list[str] = []

    def gather() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())

    reader = threading.Thread(target=gather)
    reader.start()
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait()
        reader.join()
        if process.stdout is not None:
            process.stdout.close()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.02)


def _finish(folder: Path) -> tuple[Artifact, str]:
    (folder / "long.yaml").write_text(RECIPE)
    done = subprocess.run(_command(folder), cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    found = list(Store(folder / "store").artifacts())
    assert len(found) == 1
    assert not (folder / "store" / ".partial").exists()
    return found[0], done.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _finish(tmp_path_factory.mktemp("uninterrupted"))[0]


def test_ctrl_c_in_training_stops_with_one_line_and_the_next_run_resumes(
    tmp_path: Path, uninterrupted: Artifact
) -> None:
    with _started(tmp_path) as (process, lines):
        _wait(lambda: any("epoch 3:" in line for line in lines))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    said = [line for line in lines if line and not re.match(r"\[1/1\]|    epoch ", line)]
    assert said == ["stopped: what is finished stays, the same command goes on from here"]
    assert list(Store(tmp_path / "store").artifacts()) == []
    artifact, stderr = _finish(tmp_path)
    assert artifact.metrics["resumed_at"] > 0
    assert f"resuming at step {artifact.metrics['resumed_at']}" in stderr
    assert artifact.digest == uninterrupted.digest
    assert uninterrupted.metrics["resumed_at"] == 0


def test_a_kill_in_training_loses_little_and_changes_nothing(tmp_path: Path, uninterrupted: Artifact) -> None:
    with _started(tmp_path) as (process, _):
        _wait(
            lambda: process.poll() is not None or any((tmp_path / "store").glob(".partial/*/work/training.safetensors"))
        )
        os.kill(process.pid, signal.SIGKILL)
        killed = process.wait(PATIENCE_S) == -signal.SIGKILL
    artifact, _ = _finish(tmp_path)
    if killed:
        assert artifact.metrics["resumed_at"] > 0
    assert artifact.digest == uninterrupted.digest
