"""Affinity and quotas decide how many threads compute, in control groups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolchain.core import processors

#: Control groups as Linux shows them: a process's own file, the files that are mounted, and the quota in CPUs.
GROUPS: dict[str, tuple[str, dict[str, str], float | None]] = {
    "v2": ("0::/job", {"cpu.max": "max 100000", "job/cpu.max": "150000 100000"}, 1.5),
    "v2, limited above": ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"}, 0.5),
    "v2 container, under the host's name": ("0::/docker/123", {"cpu.max": "25000 50000"}, 0.5),
    "v2 without a limit": ("0::/", {"cpu.max": "max 100000"}, None),
    "v1": (
        "4:memory:/job\n1:cpu,cpuacct:/job",
        {"cpu,cpuacct/job/cpu.cfs_quota_us": "50000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
        0.5,
    ),
    "v1 container, under the host's name": (
        "1:cpuacct,cpu:/docker/123",
        {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
        3.0,
    ),
    "v1 without a limit": ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    "another controller": ("1:cpuset:/", {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "9"}, None),
    "no control groups": ("", {}, None),
}  # fmt: skip


@pytest.fixture(params=GROUPS)
def group(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> float | None:
    """Mounts a fake control group, and gives its quota."""
    own, files, quota = GROUPS[request.param]
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    monkeypatch.setattr(processors, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "OWN_CGROUP", tmp_path / "own")
    return quota


def test_a_quota_is_read_in_both_versions_of_control_groups(group: float | None) -> None:
    assert processors.cpu_quota() == group
    assert processors.quota_facts() == ({} if group is None else {"cpu_quota": group})


@pytest.mark.parametrize(("quota", "most"), [(0.5, 1), (1.5, 2), (0.001, 1), (None, 10**6)])
def test_threads_are_the_quota_rounded_up_and_no_more_than_the_cores(
    quota: float | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "cpu_quota", lambda: None)
    cores = processors.physical_cores()
    monkeypatch.setattr(processors, "cpu_quota", lambda: quota)
    assert processors.physical_cores() == min(cores, most)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_a_process_bound_to_one_cpu_counts_one_core() -> None:
    program = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from toolchain.core import processors; print(processors.physical_cores(), len(processors.usable_cpus()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


@pytest.fixture
def half_a_cpu() -> Iterator[Path]:
    """A real control group with half a CPU, where this machine lets one be made."""
    name = f"test-{uuid.uuid4().hex}"
    for mount, limit, text in (("cpu", "cpu.cfs_quota_us", "50000"), ("", "cpu.max", "50000 100000")):
        folder = Path("/sys/fs/cgroup") / mount / name
        try:
            folder.mkdir()
            (folder / limit).write_text(text)
        except OSError:
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_a_real_quota_of_half_a_cpu_is_seen_by_who_runs_under_it(half_a_cpu: Path) -> None:
    program = (
        f"import os; open({str(half_a_cpu / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "from toolchain.measure.machine import machine; print(machine()['cpu_quota'], machine()['physical_cores'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.5", "1"]
