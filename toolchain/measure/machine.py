"""The machine that a measurement was taken on: its identity, and the full record kept beside the figures."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import os
import platform
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from toolchain.core.processors import cpuinfo, physical_cores, quota_facts, sysctl, usable_cpus

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

#: Where NVIDIA's driver on Linux shows itself; reading it takes no time, where NVML may have to wake the GPU.
NVIDIA = Path("/proc/driver/nvidia")

#: Instruction sets that decide how fast an encoder runs, by the name that Linux gives them on x86 and on Arm.
INSTRUCTION_SETS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "asimd", "asimdhp", "asimddp",
    "sve", "sve2", "i8mm", "bf16", "sme",
)  # fmt: skip

#: The same sets by the names that macOS gives them.
_MACOS_NAMES = {
    "hw.optional.avx2_0": "avx2", "hw.optional.avx512f": "avx512f", "hw.optional.neon": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp", "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_I8MM": "i8mm", "hw.optional.arm.FEAT_BF16": "bf16", "hw.optional.arm.FEAT_SME": "sme",
}  # fmt: skip

#: Distributions whose versions a figure may depend on.
LIBRARIES = (
    "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "tensorrt-rtx", "tokenizers", "safetensors", "numpy", "neural-compressor", "nncf", "optimum",
)  # fmt: skip

#: Environment variables that change how many threads compute, or where.
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM",
    "OMP_WAIT_POLICY", "KMP_AFFINITY", "KMP_BLOCKTIME", "GOMP_CPU_AFFINITY", "CUDA_VISIBLE_DEVICES",
    "LD_PRELOAD", "MALLOC_ARENA_MAX",
)  # fmt: skip


@cache
def machine() -> dict[str, Any]:
    """The identity of this machine, as it goes into the key of a measurement.

    Returns:
        ``cpu`` (model name), ``cpu_flags`` (digest of all of its features), ``logical_cpus`` (that this process may
        use), ``physical_cores`` (by affinity and quota), ``cpu_quota`` (CPUs; only where there is one), ``memory_gib``,
        ``host``, ``system``, and ``gpus`` (names, with ``gpu_driver``).
    """
    gpus, driver = _gpus()
    return {
        "cpu": _cpu_name(),
        "cpu_flags": hashlib.sha256(" ".join(sorted(_features())).encode()).hexdigest()[:16],
        "logical_cpus": len(usable_cpus()),
        "physical_cores": physical_cores(),
        **quota_facts(),
        "memory_gib": _memory_gib(),
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": gpus,
        "gpu_driver": driver,
    }


def environment() -> dict[str, Any]:
    """The full record of what a result was made with: the machine, Python, libraries, settings, load."""
    return {
        "machine": machine(),
        "instruction_sets": list(instruction_sets()),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "libraries": _versions(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "governor": _text(GOVERNOR) or None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


@cache
def instruction_sets() -> tuple[str, ...]:
    """Those instruction sets of this processor that decide how fast an encoder runs, by their Linux names."""
    features = _features()
    return tuple(name for name in INSTRUCTION_SETS if name in features)


@cache
def _features() -> frozenset[str]:
    if sys.platform == "darwin":
        return frozenset(name for key, name in _MACOS_NAMES.items() if sysctl(key) == "1")
    fields = cpuinfo()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


@cache
def _cpu_name() -> str:
    if sys.platform == "darwin":
        return sysctl("machdep.cpu.brand_string") or platform.machine()
    fields = cpuinfo()
    if "model name" in fields:
        # Virtual machines hide the product's name; family, model and stepping still tell generations apart.
        family = (f"{short} {fields[key]}" for short, key in _FAMILY.items() if key in fields)
        return f"{fields['model name']} ({', '.join(family)})"
    arm = (fields[key] for key in ("CPU implementer", "CPU part", "CPU variant") if key in fields)
    return " ".join((platform.machine(), *arm))


_FAMILY = {"family": "cpu family", "model": "model", "stepping": "stepping"}


def _memory_gib() -> int:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError, AttributeError):
        return 0


def _gpus() -> tuple[list[str], str | None]:
    models = [re.search(r"Model:\s*(.+)", _text(path)) for path in sorted(NVIDIA.glob("gpus/*/information"))]
    version = re.search(r"Kernel Module\D*\s([\d.]+)", _text(NVIDIA / "version"))
    if version and models and all(models):
        return [found[1].strip() for found in models if found], version[1]
    nvml = load_nvml()
    if nvml is None:
        return [], None
    text = ctypes.create_string_buffer(96)
    names = []
    for handle in gpu_handles(nvml):
        if nvml.nvmlDeviceGetName(handle, text, 96) == 0:
            names.append(text.value.decode("utf-8", "replace"))
    driver = text.value.decode() if nvml.nvmlSystemGetDriverVersion(text, 96) == 0 else None
    return names, driver


@cache
def load_nvml() -> Any | None:
    """NVIDIA's management library, initialized, or None where the machine has no driver."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        return nvml if nvml.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def gpu_handles(nvml: Any) -> list[ctypes.c_void_p]:
    """A handle for every GPU that NVML shows."""
    count = ctypes.c_uint(0)
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    handles = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
            handles.append(handle)
    return handles


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
