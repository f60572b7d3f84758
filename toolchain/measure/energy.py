"""Energy counters that the machine itself keeps: RAPL for the processor's packages, NVML for NVIDIA GPUs.

Where it has none that may be read, there is no figure; nothing is estimated.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.measure.machine import gpu_handles, load_nvml

POWERCAP = Path("/sys/class/powercap")

#: A package as a whole. Its parts (``intel-rapl:0:0``) are in it, and ``psys`` counts packages again.
_PACKAGE = re.compile(r"intel-rapl:\d+")

#: From Volta on a GPU counts the energy that it used since its driver was loaded.
_MILLIJOULE = 1e-3
_MICROJOULE = 1e-6


@dataclass(frozen=True)
class Reading:
    """A moment's state of every counter, in joules from an arbitrary start."""

    joules: Mapping[str, float]


class EnergyMeter:
    """Reads the machine's energy counters.

    Args:
        powercap: Where Linux shows RAPL.

    Attributes:
        sources: Names of the counters that can be read, such as ``package-0`` and ``gpu-0``; empty where there is none.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._zones: dict[str, Path] = {}
        self._ranges: dict[str, float] = {}
        for zone in sorted(powercap.glob("intel-rapl:*")) if powercap.is_dir() else ():
            self._add_zone(zone)
        nvml = load_nvml()
        self._nvml = nvml
        self._gpus = {f"gpu-{i}": handle for i, handle in enumerate(gpu_handles(nvml) if nvml is not None else [])}
        self._gpus = {name: handle for name, handle in self._gpus.items() if self._gpu_joules(handle) is not None}
        self.sources = (*self._zones, *self._gpus)

    def read(self) -> Reading:
        """Reads every counter; one that has become unreadable is left out."""
        joules = {}
        for name, zone in self._zones.items():
            value = _number(zone / "energy_uj")
            if value is not None:
                joules[name] = value * _MICROJOULE
        for name, handle in self._gpus.items():
            used = self._gpu_joules(handle)
            if used is not None:
                joules[name] = used
        return Reading(joules)

    def between(self, start: Reading, end: Reading) -> dict[str, float]:
        """Joules used from one reading to the next, by counter.

        A counter that started over once in between is corrected by its range; RAPL's take minutes to come around.
        """
        used = {}
        for name in start.joules.keys() & end.joules.keys():
            difference = end.joules[name] - start.joules[name]
            used[name] = difference if difference >= 0 else difference + self._ranges.get(name, 0.0)
        return {name: value for name, value in sorted(used.items()) if value >= 0}

    def _add_zone(self, zone: Path) -> None:
        try:
            name = (zone / "name").read_text(encoding="utf-8").strip()
        except OSError:
            return
        counter_range = _number(zone / "max_energy_range_uj")
        readable = _number(zone / "energy_uj") is not None and counter_range is not None
        if readable and _PACKAGE.fullmatch(zone.name) and name.startswith("package") and counter_range is not None:
            self._zones[name] = zone
            self._ranges[name] = counter_range * _MICROJOULE

    def _gpu_joules(self, handle: ctypes.c_void_p) -> float | None:
        used = ctypes.c_ulonglong(0)
        if self._nvml is None or self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(used)) != 0:
            return None
        return used.value * _MILLIJOULE


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
