"""What times on an engine depend on, for the keys of artifacts that measured times decide."""

from __future__ import annotations

import os
import platform
from typing import Any

from toolchain.core import registry
from toolchain.core.processors import quota_facts


def fingerprint(engine: str) -> dict[str, Any]:
    """The engine's own facts, and which machine it is: a time is not another machine's.

    Args:
        engine: Name of the engine, a file of ``engines/``.
    """
    technique = registry.get("engines", engine)
    return {
        **technique.hooks.fingerprint(technique.config()),
        "logical_cpus": os.cpu_count(),
        "host": platform.node(),
        **quota_facts(),
    }
