from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.builders import SENTENCES, engine_folder
from toolchain.core.errors import EngineError, LostProcessError
from toolchain.measure import worker as worker_module
from toolchain.measure.process import WorkerProcess

#: The longest that a process may take to be gone.
GONE_S = 10.0


def is_alive(pid: int) -> bool:
    try:
        # A zombie that nobody has waited for counts as gone.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + GONE_S
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_what_a_library_prints_does_not_disturb_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A module that shouts when it is imported, in the place of one that the worker needs, and then becomes it.
    (tmp_path / "numpy.py").write_text(
        "import os, sys; print('loud'); os.write(1, b'louder'); sys.path.remove(os.path.dirname(__file__))\n"
        "del sys.modules['numpy']; import numpy\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = engine_folder(tmp_path / "engine")
    with WorkerProcess("engine", 1) as worker:
        assert worker.call("open", folder=str(folder), threads=1)["load_s"] > 0
        assert worker.call("memory")["peak_memory_bytes"] > 10_000_000
        assert "loud" in worker._tail()


def test_memory_is_measured_on_batches_of_mixed_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, texts = worker_module.Worker(lambda _: None), tmp_path / "texts.json"
    texts.write_text(json.dumps([[text] for text in SENTENCES]), "utf-8")
    worker.open(str(engine_folder(tmp_path / "engine")), 1)
    worker.sample(str(texts))
    session, shapes = worker._predictor.session, []
    run = session.run

    def recorded(batch: Any) -> Any:
        shapes.append(batch["input_ids"].shape)
        return run(batch)

    monkeypatch.setattr(session, "run", recorded)
    assert worker.memory()["peak_memory_bytes"] > 10_000_000
    assert shapes == []
    worker.memory(rows=4, seconds=0.2)
    assert {rows for rows, _ in shapes} == {1, 2, 3, 4}
    assert len({tokens for _, tokens in shapes}) > 2


def test_a_worker_that_is_killed_is_reported_with_its_signal(tmp_path: Path) -> None:
    with WorkerProcess("fp32", 1) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(LostProcessError, match="fp32: its process was ended by SIGKILL") as caught:
            worker.call("memory")
    assert not caught.value.crashed
    assert "memory" in caught.value.hint


def test_a_crash_is_one_sentence_that_says_where_its_traceback_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with (
        pytest.raises(EngineError, match="'placement' failed: AttributeError") as caught,
        WorkerProcess("fp32", 1) as w,
    ):
        w.call("placement", scratch=".")
    (file,) = tmp_path.glob("toolchain-error-*.txt")
    assert "Traceback" not in caught.value.message
    assert str(file) in caught.value.hint
    assert "worker.py" in file.read_text("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_is_stopped_is_spoken_of_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("toolchain.measure.process.SILENCE_S", 0.1)
    monkeypatch.setattr("toolchain.core.log.logger.propagate", True)
    with WorkerProcess("fp32", 1) as worker:
        worker.call("memory")
        number = worker._process.pid
        os.kill(number, signal.SIGSTOP)
        go_on = threading.Timer(1.0, os.kill, (number, signal.SIGCONT))
        go_on.start()
        assert worker.call("memory")["peak_memory_bytes"] > 0
        go_on.join()
    said = [record.getMessage() for record in caplog.records if "is stopped" in record.getMessage()]
    assert said == [
        f"    fp32: its process {number} is stopped and computes nothing; let it go on: kill -CONT {number}"
    ]


def test_leaving_ends_the_process() -> None:
    with WorkerProcess("fp32", 1) as worker:
        worker.call("memory")
        pid = worker._process.pid
    assert not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_parent_leaves_no_worker_behind() -> None:
    program = (
        "import time; from toolchain.measure.process import WorkerProcess\n"
        "worker = WorkerProcess('fp32', 1); worker.call('memory')\n"
        "print(worker._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert is_alive(worker)
        parent.kill()
    assert wait_until_gone(worker)
