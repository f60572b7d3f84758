"""What others took of the processor while something was timed, and what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from toolchain.core.store import Artifact
from toolchain.deliver import ranking
from toolchain.engines.shared import contention


def stat(path: Path, busy: float, idle: float = 1000.0) -> None:
    """Writes what Linux would say after so many busy seconds, a quarter of them taken by the hypervisor."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = [0.25 * busy, 0.125 * busy, 0.125 * busy, idle, idle, 0.125 * busy, 0.125 * busy, 0.25 * busy, 0, 0]
    path.write_text("cpu  " + " ".join(str(round(field * ticks)) for field in fields) + "\ncpu0 1 2 3\n", "ascii")


def test_busy_time_of_others_is_told_in_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "STAT", tmp_path / "stat")
    clock, own = [100.0], [7.0]
    monkeypatch.setattr("toolchain.engines.shared.contention.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("toolchain.engines.shared.contention.os.times", lambda: (own[0], 0.0, 1.0, 0.0, 0.0))
    stat(tmp_path / "stat", 40.0)
    others = contention.watch()
    clock[0], own[0] = 110.0, 12.0
    stat(tmp_path / "stat", 60.0)
    assert others() == pytest.approx(1.5, abs=0.01)  # 20 s of all, 5 s of them ours, in 10 s
    own[0] = 60.0
    assert others() == 0.0


def test_where_the_system_does_not_tell_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "STAT", tmp_path / "none")
    assert contention.watch()() is None
    assert contention.told(None, "x", "y") == ""
    assert contention.told(contention.QUIET, "x", "y") == ""
    assert contention.told(1.04, "options were tuned", "tune again") == (
        "other programs kept 1.0 CPUs busy while options were tuned: tune again"
    )


@pytest.mark.skipif(not contention.STAT.is_file(), reason="the system does not tell what its processors do")
def test_a_program_that_works_beside_is_seen() -> None:
    others = contention.watch()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(1.5)
        found = others()
        busy.kill()
    assert found is not None
    assert found > contention.QUIET


@pytest.mark.parametrize(
    ("kind", "metrics", "said"),
    [
        ("engine", {"tuning": {"others_cpus": 1.2}}, "1.2 CPUs busy while options of base were tuned: --force build"),
        ("engine", {"tuning": {"others_cpus": 0.1}}, ""),
        ("engine", {"tuning": None}, ""),
        ("timing", {"others_cpus": 0.6}, "0.6 CPUs busy while engines were timed: --force time"),
        ("timing", {}, ""),
        ("checkpoint", {}, ""),
    ],
)
def test_the_report_names_what_was_tuned_or_timed_beside_it(kind: str, metrics: dict[str, Any], said: str) -> None:
    found = ranking._contended("base", Artifact(Path(), {"kind": kind, "metrics": metrics}))
    assert said in found
    assert bool(found) == bool(said)
