"""Reads the header of a safetensors file and compares it with the size of the file, before the content is read.

A file that is not what its header says is refused here in no time, however large it is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.core import disk, documents
from toolchain.core.errors import ModelError
from toolchain.core.failure import shorten

#: Longest header, in bytes: the format's own limit.
_HEADER_BYTES = 100_000_000

_HINT = "copy or download it again"


def tensors(path: Path) -> dict[str, Mapping[str, Any]]:
    """Return what a safetensors file says of each of its tensors, by name.

    Raises:
        ModelError: The file is no safetensors file, or is shorter or longer than its header says.
    """
    try:
        with disk.open_regular(path) as file:
            size = path.stat().st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_HEADER_BYTES, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = documents.parse_json(file.read(length), f"the header of {path}", ModelError, _HINT)
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(f"{path}: the weights are damaged: {error}", _HINT) from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: the weights are damaged: the header is not a JSON object", _HINT)
    header.pop("__metadata__", None)
    ends = {name: _end(entry) for name, entry in header.items()}
    if wrong := [name for name, end in ends.items() if end is None]:
        raise ModelError(
            f"{path}: the weights are damaged: the header does not say where {shorten(repr(wrong[0]), 1, 80)} lies",
            _HINT,
        )
    described = 8 + length + max((end for end in ends.values() if end is not None), default=0)
    if described != size:
        raise ModelError(
            f"{path}: the weights are damaged: the header describes {described:,} bytes, and the file has {size:,}",
            _HINT,
        )
    return header


def _end(entry: Any) -> int | None:
    """Return the byte behind a tensor's last one, counted from the end of the header; None if the entry has none."""
    offsets = entry.get("data_offsets") if isinstance(entry, Mapping) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        return None
    first, end = offsets
    return int(end) if 0 <= first <= end else None
