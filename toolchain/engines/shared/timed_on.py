"""What times on an engine depend on, for the keys of artifacts that measured times decide."""

from __future__ import annotations

import platform
from typing import Any

from toolchain.core import registry
from toolchain.core.processors import capacity


def fingerprint(engine: str) -> dict[str, Any]:
    """The engine's own facts, and which machine it is: a time is not another machine's.

    Args:
        engine: Name of the engine, a file of ``engines/``.
    """
    technique = registry.get("engines", engine)
    return {
        **technique.hooks.fingerprint(technique.config()),
        **capacity(),
        "host": platform.node(),
    }
