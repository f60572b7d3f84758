"""The door for strangers' tokenizers and graphs: native code reads them first in a child, with limits.

A tokenizer may panic or take gigabytes for one text, and a graph may keep a converter busy for ever. Both would take
the command down with them. So a folder is tried once when it is taken in; what came through is in the store from then
on and is not tried again.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from toolchain.core import child, limits
from toolchain.core.artifact import copied
from toolchain.core.disk import open_regular
from toolchain.core.errors import DamagedError, ModelError, require
from toolchain.core.files import check_file
from toolchain.core.manifest import MANIFEST

_SCRIPT = Path(__file__).parent / "_door_child.py"

_AGAIN = {
    "tokenizer": "copy it again; it is what a fast tokenizer's save_pretrained() writes",
    "graph": "export it again, and check what wrote it",
}


def admit(folder: Path | None = None, graph: Path | None = None) -> None:
    """Try a folder's tokenizer, a graph, or both in one child.

    Args:
        folder: A folder that may hold ``tokenizer.json``.
        graph: An ONNX file.

    Raises:
        ModelError: One of them cannot be read within the limits; it is named.
    """
    files = []
    if folder is not None and (folder / "tokenizer.json").exists():
        files.append(("tokenizer", check_file(folder, "tokenizer.json")))
    if graph is not None:
        require("onnx", "torch")
        files.append(("graph", check_file(graph.parent, graph.name)))
    if files:
        _admit(tuple((kind, str(path.absolute()), *_state(path, kind)) for kind, path in files))


def check_published(folder: Path) -> None:
    """Refuses an artifact that has changed since it was published; a folder of another tool has no such manifest.

    Raises:
        ModelError: A file is missing or differs from the manifest.
    """
    try:
        artifact = copied(folder)
        changed = artifact.changes() if artifact else []
    except DamagedError as error:
        changed = [error.message]
    if changed:
        raise ModelError("; ".join(changed), f"copy it again, or, if the change is meant, remove {folder / MANIFEST}")


def _state(path: Path, kind: str) -> tuple[int, int, int]:
    """Return what tells whether a file is the one that was tried."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
        status = path.stat()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", _AGAIN[kind]) from error
    if kind == "tokenizer" and size > limits.limit("tokenizer_bytes"):
        raise ModelError(f"{path} has {size:,} bytes; at most {limits.limit('tokenizer_bytes'):,} are read",
                         limits.way_out("tokenizer_bytes"))  # fmt: skip
    return size, status.st_mtime_ns, status.st_ino


@cache
def _admit(files: tuple[tuple[str, str, int, int, int], ...]) -> None:
    kinds = {path: kind for kind, path, *_ in files}
    seconds = limits.limit("door_seconds")
    request = {
        "files": [[kind, path] for kind, path, *_ in files],
        "seconds": seconds,
        "mib": limits.limit("door_mib"),
    }
    with tempfile.TemporaryDirectory(prefix="toolchain-door-") as work:
        try:
            answer = child.run(
                _SCRIPT, request, python="", work=Path(work), threads=1, what="door", limit_s=seconds + 2
            )
        except child.ChildError as error:
            path = _last(error.log, [path for _, path, *_ in files])
            raise _ended(path, kinds[path], error) from error
    if answer:
        path, reason = answer["file"], answer["reason"]
        if reason == "memory":
            raise _beyond(path, kinds[path], "door_mib")
        raise ModelError(f"{path} cannot be used as a {kinds[path]}: {reason}", _AGAIN[kinds[path]])


def _last(log: str, paths: Sequence[str]) -> str:
    """Return the file that was being tried when the child ended."""
    tried = re.findall(r"trying (.*)", log)
    return next((path for path in reversed(tried) if path in paths), paths[0])


def _ended(path: str, kind: str, error: child.ChildError) -> ModelError:
    if "memory allocation" in error.log or "bad_alloc" in error.log or "SIGKILL" in error.said:
        return _beyond(path, kind, "door_mib")
    if "SIGXCPU" in error.said or "was ended after" in error.said:
        return _beyond(path, kind, "door_seconds")
    return ModelError(f"{path} cannot be used as a {kind}: the library that reads it {error.said}", _AGAIN[kind])


def _beyond(path: str, kind: str, name: str) -> ModelError:
    what = {"door_mib": f"{limits.limit('door_mib'):,} MiB of memory", "door_seconds": f"{limits.limit(name)} s"}
    return ModelError(f"{path} cannot be used as a {kind}: to read it takes more than {what[name]}",
                      limits.way_out(name))  # fmt: skip
