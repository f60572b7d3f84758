"""The processor, and how much of it this process may use: its affinity, and the CPU quota of its control group."""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

#: Where Linux describes the processor.
CPUINFO = Path("/proc/cpuinfo")

#: Where Linux mounts control groups, and where a process finds its own.
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first processor, by its names for it; empty on other systems."""
    fields: dict[str, str] = {}
    for line in _text(CPUINFO).splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def capacity() -> dict[str, Any]:
    """Return how many threads the machine runs at a time, and the quota, as they go into keys."""
    return {"logical_cpus": os.cpu_count(), **quota_facts()}


def processor() -> dict[str, Any]:
    """Return the processor that an engine is tuned on, as it goes into keys: its name and ``capacity``."""
    fields = cpuinfo()
    return {"processor": fields.get("model name", "") if fields else platform.processor(), **capacity()}


def usable_cpus() -> tuple[int, ...]:
    """Return the logical CPUs that this process may run on, sorted."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def physical_cores() -> int:
    """Return how many threads to compute with: the physical cores this process may use, by affinity and quota.

    A quota is rounded up, to at least 1: more threads than that are stopped in the middle of their work.
    """
    if sys.platform == "darwin":
        return int(sysctl("hw.physicalcpu") or os.cpu_count() or 1)
    cores = set()
    for cpu in usable_cpus():
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        siblings = _text(topology / "thread_siblings_list") or _text(topology / "core_cpus_list")
        cores.add(siblings or str(cpu))
    quota = cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def cpu_quota() -> float | None:
    """Return how many CPUs' time this process may use; None where nothing limits it.

    Control groups of version 1 and 2 are read. The limit is the least of the process's group and of those above it. In
    a container that sees its group under the host's name, only those that are mounted there are.
    """
    quotas = []
    for line in _text(OWN_CGROUP).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        mounts = [CGROUPS / name for name in (controllers, "cpu")] if controllers else [CGROUPS]
        mount = next((folder for folder in mounts if folder.is_dir()), None)
        if mount is None:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            quotas.append(_quota(folder))
            if folder == mount:
                break
    return min((quota for quota in quotas if quota is not None), default=None)


def quota_facts() -> dict[str, float]:
    """Return the quota as it goes into keys of what was measured, and into reports; empty where there is none."""
    quota = cpu_quota()
    return {} if quota is None else {"cpu_quota": quota}


def _quota(folder: Path) -> float | None:
    """Return the quota of one control group, in CPUs."""
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not period:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
        return round(int(quota) / int(period), 3)
    return None


@cache
def sysctl(name: str) -> str:
    """Return a value of macOS's sysctl, or '' where there is none."""
    command = shutil.which("sysctl") or "/usr/sbin/sysctl"
    try:
        done = subprocess.run([command, "-n", name], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
