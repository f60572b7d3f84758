"""What ``gc`` removes: artifacts that nobody wants, and what interrupted runs left; nothing outside of the store."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from toolchain.core import disk, traces
from toolchain.core.artifact import Artifact

if TYPE_CHECKING:
    from toolchain.core.store import Store


def collect(
    store: Store, keep: Collection[str], only: Iterable[str] | None, dry_run: bool, damaged: list[str] | None
) -> tuple[list[Artifact], int]:
    """Remove artifacts of a store that nobody else uses; arguments and result are those of :meth:`Store.gc`."""
    from filelock import FileLock, Timeout

    gone = [artifact for artifact in store.artifacts(damaged) if artifact.key not in keep]
    if only is not None:
        may_go = set(only)
        gone = [artifact for artifact in gone if artifact.key in may_go]
    freed = sum(artifact.size_bytes for artifact in gone)
    partial = store.partial()
    if not dry_run:
        for artifact in gone:
            store.remove(artifact)
    for folder in sorted(partial.glob("*")):
        key = folder.name.partition(".")[0]
        if not disk.is_folder(folder):
            continue
        lock = partial / f"{key}.lock"
        unused = dry_run and not lock.exists()  # to try a lock makes its file, and a dry run makes none
        try:
            with nullcontext() if unused else FileLock(lock, timeout=0):
                freed += disk.size(folder)
                if not dry_run:
                    disk.remove(folder)
        except Timeout:
            continue
    if not keep and os.path.lexists(graphs := store.root / traces.FOLDER):
        freed += disk.size(graphs)
        if not dry_run:
            disk.remove(graphs)
    if not dry_run:
        for path in partial.glob("*.lock"):
            if not (partial / path.stem).exists():
                disk.clear(path.with_suffix(""), path)
        store.sweep()
    return gone, freed
