"""The processor that an engine was tuned on: its settings are not another one's."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from toolchain.core.processors import quota_facts


def processor() -> dict[str, Any]:
    """The processor's name, as the system tells it, and how many threads it runs at a time."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = [f"model name: {platform.processor()}"]
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"processor": name, "logical_cpus": os.cpu_count(), **quota_facts()}
