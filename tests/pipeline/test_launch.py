from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import RECIPE
from toolchain.core.store import Store


@pytest.mark.slow
def test_several_processes_of_a_launch_train_together_and_do_the_rest_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "start.py").write_text("import sys\nfrom toolchain.cli import main\n\nmain(sys.argv[1:])\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "start.py"]
    command = [*launch, "export", "tiny.yaml", "--store", "store", "--threads", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "store")
    assert [artifact.kind for artifact in store.artifacts()] == ["checkpoint", "onnx"]
    trained = next(store.artifacts())
    assert trained.metrics["steps"] == 8  # 2 epochs of 32 examples, 8 a step whatever the number of processes
    assert done.stderr.count("done in") == 2
    assert done.stderr.count("epoch 1:") == 1
    assert len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "store" / ".partial").exists()
