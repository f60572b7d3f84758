"""How busy other programs keep the processor while something is timed: options tuned beside them are chosen wrongly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

#: Where Linux counts what its processors do, in ticks of 1 / sysconf(SC_CLK_TCK) seconds.
STAT = Path("/proc/stat")

#: CPUs that others may keep busy before it is said.
QUIET = 0.25


def watch() -> Callable[[], float | None]:
    """Begins to watch, and gives what ends it: CPUs that other programs kept busy meanwhile, on average.

    What a hypervisor takes away from this machine counts as well. None where the system does not tell.
    """
    began, before, own = time.monotonic(), _busy(), _own()

    def others() -> float | None:
        now, seconds = _busy(), time.monotonic() - began
        if before is None or now is None or seconds <= 0:
            return None
        return round(max(0.0, now - before - (_own() - own)) / seconds, 3)

    return others


def told(busy: float | None, what: str, again: str) -> str:
    """What is to be said where others were busy, or nothing.

    Args:
        busy: What a watch has ended with.
        what: What was measured meanwhile.
        again: What to do.
    """
    if busy is None or busy <= QUIET:
        return ""
    return f"other programs kept {busy:.1f} CPUs busy while {what}: {again}"


def _own() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _busy() -> float | None:
    """CPU seconds since the machine started in which its processors worked for somebody, or were taken away."""
    try:
        fields = STAT.read_text("ascii").split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, steal = (int(value) for value in fields[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
