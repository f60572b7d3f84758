"""``engine.json``: which engine a folder is for, its files, and the options that a session is opened with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.core import disk, documents
from toolchain.core.artifact import digest, digest_of
from toolchain.core.errors import EngineError, ModelError, StoreError
from toolchain.core.files import check_file, is_plain, safe_folder
from toolchain.core.store import MANIFEST

ENGINE_FILE = "engine.json"


@dataclass(frozen=True)
class EngineFile:
    """What ``engine.json`` holds.

    Attributes:
        engine: Name of the engine, a file of ``engines/``.
        files: The engine's own files, names inside the folder; their bytes are its size.
        options: What ``open_session`` needs to know.
        extra: Everything else in the file, such as ``parameters`` and ``flops``.
    """

    engine: str
    files: tuple[str, ...]
    options: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


def write_engine(
    out: Path, engine: str, files: Sequence[str], options: Mapping[str, Any], extra: Mapping[str, Any] | None = None
) -> None:
    """Writes ``engine.json`` into an engine folder.

    Args:
        out: The engine folder.
        engine: Name of the engine.
        files: Names of the engine's own files.
        options: JSON values that ``open_session`` needs.
        extra: JSON values that tell what was built, such as ``fusion``.
    """
    record = {"engine": engine, "files": list(files), "options": dict(options), **(extra or {})}
    (out / ENGINE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_engine(folder: Path) -> EngineFile:
    """Reads ``engine.json`` and checks that the files it names are there, inside the folder.

    Raises:
        EngineError: The file is missing or damaged, or names a file that is missing or outside of the folder.
    """
    path = folder / ENGINE_FILE
    safe_folder(folder, ("*.json",), EngineError)
    record = documents.read_object(
        path, EngineError, "build the engine again", "an engine folder is what 'toolchain build' writes"
    )
    engine, files, options = (record.get(name) for name in ("engine", "files", "options"))
    if not (isinstance(engine, str) and isinstance(options, dict) and isinstance(files, list) and files):
        raise EngineError(f"{path} needs 'engine' (text), 'files' (a list) and 'options'", "build the engine again")
    for name in files:
        if not is_plain(name):
            raise EngineError(f"{path} names the file {name!r}; allowed are files inside of its folder")
        if not os.path.lexists(folder / name):
            raise EngineError(f"{folder / name} is missing, and {path} names it", "build the engine again")
        check_file(folder, name, EngineError)
    extra = {key: value for key, value in record.items() if key not in ("engine", "files", "options")}
    return EngineFile(engine, tuple(files), options, extra)


def check_digest(folder: Path, expected: str) -> None:
    """Refuse an engine folder whose content is not the one that is known from elsewhere.

    Args:
        folder: The engine folder.
        expected: SHA-256 of its content, as ``toolchain build -o`` says it and ``build --json`` holds it.

    Raises:
        EngineError: The folder has another digest, a link, or a file that is no regular one.
    """
    names = [name for name in disk.files(folder) if name != MANIFEST]
    content = digest_of({name: digest(check_file(folder, name, EngineError)) for name in names})
    if content != expected.strip().lower():
        raise EngineError(
            f"{folder} is not the engine that was named: its digest is {content}, and {expected} was expected; "
            "nothing of it was loaded",
            "copy the folder again from where it was built, whole and without other files",
        )


def stored_digest(folder: Path, name: str) -> str | None:
    """What the store's manifest has as a file's SHA-256; None where there is no manifest.

    Raises:
        EngineError: There is one, and it does not name the file.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = documents.read_object(path, EngineError, "build the engine again")
    try:
        return str(manifest["files"][name]["sha256"])
    except (KeyError, TypeError) as error:
        raise EngineError(f"{path} names no digest of {name}", "build the engine again") from error


def place(source: Path, target: Path) -> None:
    """Gives a file a second home: a hard link where that is safe, else a copy.

    Only an artifact of the store, which is never edited, is linked to; what a user holds is copied.

    Raises:
        ModelError: The source is missing or cannot be read.
    """
    try:
        real = source.resolve(strict=True)
        with real.open("rb"):
            pass
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror or error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    if (source.parent / "manifest.json").is_file():
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(real, target)
            return
    shutil.copyfile(real, target)


def need_space(folder: Path, size_bytes: int) -> None:
    """Asks for room before a library writes that would leave a cut file behind without saying so.

    Raises:
        StoreError: The file system of the folder has less room than that.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise StoreError(
            f"No space left on device: {folder} has {free} bytes free, and {size_bytes} are needed",
            "free some space, 'toolchain gc RECIPE', or choose another folder with --store FOLDER",
        )
