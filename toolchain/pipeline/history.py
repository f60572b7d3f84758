"""What an artifact records of how it came to be: the techniques that were applied, and the model that it began as."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolchain.core.files import copy_files, safe_folder
from toolchain.core.store import Artifact, key_of
from toolchain.model.checkpoint import read_json, write_json
from toolchain.model.history import HISTORY, applied, origin
from toolchain.pipeline.plan import Step
from toolchain.pipeline.settings import plain

#: Where a tokenizer's or a model's config says which folder it was loaded from.
_PLACES = ("_name_or_path", "name_or_path", "tokenizer_file")


def write_history(folder: Path, entries: list[dict[str, Any]], began_as: Mapping[str, str]) -> None:
    """Write techniques and the model that they began with."""
    write_json(folder / HISTORY, {"techniques": entries} | ({"origin": dict(began_as)} if began_as else {}))


def entry_of(step: Step) -> dict[str, Any]:
    """Return a step as a history has it."""
    found = {
        "stage": step.stage, "technique": step.technique.name, "version": step.technique.version,
        "config": plain(step.config),
    }  # fmt: skip
    return found | ({"seed": step.seed} if step.seed is not None else {})


def augmented(more: Iterable[Artifact]) -> list[dict[str, Any]]:
    """How examples were made."""
    return [entry for artifact in more for entry in applied(artifact.path)]


def origin_of(spec: str, files: Mapping[str, str]) -> dict[str, str]:
    """Return what is kept of the model that a chain begins with: its name, without the folder, and its digest."""
    local = Path(spec).expanduser()
    return {"source": local.resolve().name if local.exists() else spec} | ({"digest": key_of(files)} if files else {})


def accompany(source: Path, out: Path) -> None:
    """Gives an engine what it is read with: tokenizer, interface and history of the graph that it was built from.

    An engine is deployed, so that what its files tell of folders on this machine stays here.

    Args:
        source: The graph's folder.
        out: The engine folder.
    """
    copy_files(source, ("tokenizer.json", "interface.json"), out)
    safe_folder(source, ("*.json",))  # a graph that an engine is refitted with comes from anywhere
    for name in ("config.json", "tokenizer_config.json"):  # what Optimum and transformers open a folder by
        if (source / name).is_file() and not (out / name).exists():
            record = read_json(source / name)
            if local := {key for key in _PLACES if key in record}:
                write_json(out / name, {key: value for key, value in record.items() if key not in local})
            else:
                shutil.copyfile(source / name, out / name)
    write_history(out, without_folders(applied(source)), origin(source))


def without_folders(value: Any) -> Any:
    """Return JSON values in which a path of this machine is the name at its end."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~/")):
        return Path(value).name
    return value


def carry_on(parent: Artifact, step: Step, more: Iterable[Artifact], out: Path) -> None:
    """Write the history of what a step made of a parent, and of the examples that it learned from."""
    known = parent.manifest["parents"]  # what it has learned from is in its history
    fresh = augmented(artifact for artifact in more if artifact.key not in known)
    write_history(out, [*applied(parent.path), *fresh, entry_of(step)], origin(parent.path))
