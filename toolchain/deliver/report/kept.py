"""Reports that were written earlier, here or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.core.errors import StoreError

REPORT = "report.json"

#: What a report of any version has, and each of its lines.
PARTS = ("name", "split", "weights", "speedup", "lines", "recommendations", "not_applicable", "failed", "notes")
OF_LINES = ("name", "model", "variant", "engine", "seed", "baseline", "accuracy_percent", "size_mb", "marks")


def read(path: Path) -> dict[str, Any]:
    """Reads a report, of this version or an older one.

    Args:
        path: ``report.json``, or the folder that holds it.

    Raises:
        StoreError: There is none, or it is no report.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        missing = [part for part in PARTS if part not in found]
        missing += [part for line in found.get("lines", ()) for part in OF_LINES if part not in line]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(
            f"{file} cannot be read as a report: {error}",
            "name a folder that 'toolchain run -o FOLDER' wrote, or its report.json",
        ) from error
    if missing:
        raise StoreError(
            f"{file} is no report: it lacks {', '.join(dict.fromkeys(missing))}",
            "name a folder that 'toolchain run -o FOLDER' wrote, or its report.json",
        )
    return dict(found)


def labels(reports: Sequence[dict[str, Any]], paths: Sequence[Path]) -> list[str]:
    """What each report is called: its own name or, where that would name several, the path that it was named by."""
    names = [str(report["name"]) or str(path) for report, path in zip(reports, paths, strict=True)]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
