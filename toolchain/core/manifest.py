"""The manifest of an artifact: what it states of the result, what was observed meanwhile, and the seal over both.

What a second run reproduces stands in ``key``, ``kind``, ``files``, ``parts``, ``parents``, ``parent_digests``,
``metrics`` and ``seed``: children record the SHA-256 of that (:func:`statement`). Everything else is an observation:
times, hosts, trials, what a run called it. The seal is the SHA-256 of the whole manifest without the seal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.core import disk, documents
from toolchain.core.errors import DamagedError
from toolchain.core.manifest_format import FORMAT, KEY_DIGITS

MANIFEST = "manifest.json"

#: No manifest is larger; one of a hundred files and a long record has some 50 kB.
MOST_BYTES = 16 * 2**20

#: What differs between two runs that make the same thing.
OBSERVED = frozenset({
    "label", "environment", "commit", "notes", "task", "source_digest", "started", "duration_s", "observed",
    "taken_from", "replaced", "seal",
})  # fmt: skip

#: Observations that a manifest may lack, and that readers count on.
_ABSENT: Mapping[str, Any] = {"label": "", "environment": {}, "started": "", "duration_s": 0.0}


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the key of a step: SHA-256 of the canonical JSON of everything that decides its result."""
    return canonical(parts)[:KEY_DIGITS]


def canonical(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON: keys sorted, no spaces, ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything in a manifest but its seal."""
    return canonical({name: value for name, value in manifest.items() if name != "seal"})


def statement(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a manifest states of the result, observations left out: what children record."""
    return canonical({name: value for name, value in manifest.items() if name not in OBSERVED})


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest of this format, checked and sealed.

    Raises:
        ValueError: It does not keep to the schema.
    """
    from toolchain.core.manifest_schema import problem

    # What is written is what is read back: no tuples, and no keys that are numbers.
    whole: dict[str, Any] = json.loads(json.dumps({**manifest, "format": FORMAT}))
    whole["seal"] = seal(whole)
    if wrong := problem(json.dumps(whole).encode()):
        raise ValueError(f"a manifest that does not keep to its schema: {wrong}")
    return whole


def is_foreign(folder: Path) -> bool:
    """Return whether a folder's ``manifest.json`` is another tool's: an object without what each of ours has."""
    try:
        content = documents.parse_json(disk.read_own(folder / MANIFEST, MOST_BYTES), "it", DamagedError)
    except (OSError, ValueError, DamagedError):
        return False
    return isinstance(content, dict) and not {"key", "kind", "files"} <= set(content)


def read(folder: Path, kind: str = "", key: str = "") -> dict[str, Any]:
    """Read and check the manifest of an artifact.

    Args:
        folder: The artifact's folder.
        kind: The kind that it must have; empty where the folder's place says nothing.
        key: The key that it must have; empty likewise.

    Raises:
        DamagedError: It is not what ``publish`` wrote.
        FileNotFoundError: There is none.
        OSError: It cannot be read.
    """
    from toolchain.core.manifest_schema import problem

    path = folder / MANIFEST
    hint = f"remove the folder and run again: rm -r {folder}"
    try:
        text = disk.read_own(path, MOST_BYTES)
        manifest = documents.parse_json(text, "it", DamagedError)
    except (ValueError, DamagedError) as error:
        raise DamagedError(f"{path} is damaged: {error}", hint) from error
    wrong = problem(text)
    if not wrong and kind and manifest["kind"] != kind:
        wrong = f"kind is {manifest['kind']!r}, and it lies in {kind}/"
    if not wrong and key and manifest["key"] != key:
        wrong = f"key is {manifest['key']!r}, and its folder is {key}"
    if not wrong and manifest.get("format", 1) == FORMAT and seal(manifest) != manifest["seal"]:
        wrong = "it has been changed since it was written: its seal does not fit"
    if wrong:
        raise DamagedError(f"{path} is damaged: {wrong}", hint)
    return {**_ABSENT, **manifest}
