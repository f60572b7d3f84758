from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.core.test_store import _publish
from toolchain.core.errors import StoreError
from toolchain.core.store import Store

FORK = multiprocessing.get_context("fork")


def _use(root: Path, started: Any, ends: Any) -> None:
    with Store(root).used():
        started.set()
        ends.wait(20)


def _user(root: Path) -> tuple[Any, Any]:
    """A process that uses a store, and the event that ends it."""
    started, ends = FORK.Event(), FORK.Event()
    process = FORK.Process(target=_use, args=(root, started, ends))
    process.start()
    assert started.wait(20)
    return process, ends


def test_gc_removes_nothing_while_a_run_uses_the_store_and_says_who_does(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = _publish(store)
    process, ends = _user(tmp_path)
    with store.used(), pytest.raises(StoreError, match=rf"in use by .*process {process.pid} \(") as caught:
        store.gc([])  # a run beside it takes nothing from its lock
    assert "--wait" in caught.value.hint
    assert artifact.path.is_dir()
    later = _publish(store, "1" * 32)
    ends.set()
    gone, _ = store.gc([], only=[artifact.key], wait=True)
    process.join()
    assert [each.key for each in gone] == [artifact.key]
    assert later.path.is_dir(), "nobody agreed to that"


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = _publish(store)
    process, _ = _user(tmp_path)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert [each.key for each in store.gc([])[0]] == [artifact.key]


def _run(root: Path, number: int, done: Any) -> None:
    store = Store(root)
    with store.used(make=True):
        for step in range(5):
            first = _publish(store, f"{number}{step}".ljust(32, "0"))
            time.sleep(0.02)
            store.check(first)
    done.put(number)


def test_runs_beside_gc_all_end_well(tmp_path: Path) -> None:
    """Five of five ended in a traceback."""
    done = FORK.Queue()
    runs = [FORK.Process(target=_run, args=(tmp_path / "store", number, done)) for number in range(5)]
    for run in runs:
        run.start()
    while any(run.is_alive() for run in runs):
        Store(tmp_path / "store").gc([], wait=True)
    assert sorted(done.get(timeout=5) for _ in runs) == [0, 1, 2, 3, 4]
    assert [run.exitcode for run in runs] == [0] * 5


def test_a_store_that_is_only_looked_at_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for root in (tmp_path / "nothing", tmp_path / "other"):
        with Store(root).used():
            pass
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["other"]
