"""Reports that were written earlier, here or elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.core import manifest
from toolchain.core.errors import DamagedError, StoreError
from toolchain.core.files import check_file
from toolchain.deliver.report import typed

REPORT = "report.json"

#: No report is larger, in bytes: one of a thousand engines takes 40 MB.
LARGEST = 256 << 20


def read(path: Path) -> dict[str, Any]:
    """Reads a report, of this version or an older one.

    Args:
        path: ``report.json``, or the folder that holds it.

    Raises:
        StoreError: There is none, or it is no report.
        DamagedError: It has been changed since it was written.
    """
    file = path / REPORT if path.is_dir() else path
    hint = "name a folder with a report.json; 'toolchain report RECIPE -o FOLDER' writes one"
    if path.is_dir() and os.path.lexists(file):
        check_file(path, REPORT, StoreError)
    try:
        if file.exists() and not file.is_file():
            raise StoreError(f"{file} is not a regular file", hint)
        if file.stat().st_size > LARGEST:
            raise StoreError(f"{file} has {file.stat().st_size:,} bytes; a report has at most {LARGEST:,}", hint)
        report = typed.report(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read as a report: {error}", hint) from error
    seal = report.pop("seal", None)  # reports of earlier versions have none
    if seal is not None and seal != manifest.seal(report):
        raise DamagedError(
            f"{file} has been changed since it was written: its seal does not fit",
            "write it again: toolchain report RECIPE -o FOLDER",
        )
    return report


def text(report: Mapping[str, Any]) -> str:
    """Return a report as its file has it, sealed with the SHA-256 of all else in it."""
    written = json.loads(json.dumps(report, allow_nan=False))
    sealed = {**report, "seal": manifest.seal(written)}
    return json.dumps(sealed, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def labels(reports: Sequence[dict[str, Any]], paths: Sequence[Path]) -> list[str]:
    """What each report is called: its own name or, where that would name several, the path that it was named by."""
    names = [str(report["name"]) or str(path) for report, path in zip(reports, paths, strict=True)]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
