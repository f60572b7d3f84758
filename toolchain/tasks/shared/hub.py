"""Tables from data sets on the Hugging Face hub, or from a folder that holds one; without a network, fails fast."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.core import disk, documents
from toolchain.core.errors import DataError, MissingPackageError, require
from toolchain.core.files import check_file, is_plain, safe_folder
from toolchain.core.registry import suggest
from toolchain.tasks.shared.reading import Table, file_digest, missing_columns, read_table

#: What ``save_to_disk`` writes of a data set with splits.
DICT_FILE = "dataset_dict.json"

_SAVE_AGAIN = "save it again with save_to_disk, or give Parquet files"

#: How long the hub may take to say that it is there, in seconds.
PROBE_S = 5.0


def hub_tables(
    dataset: str, subset: str | None, revision: str | None, splits: Mapping[str, str], needed: Sequence[str], hint: str
) -> tuple[dict[str, Table], str]:
    """Splits of a hub data set, from the network or, where there is none, from the local cache.

    Args:
        dataset: Its id, e.g. ``nyu-mll/glue``.
        subset: Its configuration, e.g. ``mrpc``.
        revision: A commit, branch or tag; the newest when absent.
        splits: Their names on the hub, by ours; one of ours named ``test`` may be absent there.
        needed: Columns that they must have.
        hint: What a user without the hub can do instead.

    Returns:
        Tables by our names, and a note that says which commit was read.

    Raises:
        DataError: The hub cannot be reached and the cache does not hold it, or it is not what was asked for.
    """
    try:
        datasets = require("datasets", "torch")
    except MissingPackageError as error:
        raise DataError(f"{dataset}: the package 'datasets' is needed to read the hub", hint) from error
    commit = _commit(dataset, revision, hint)
    try:
        with _offline(datasets, commit is None):
            loaded = datasets.load_dataset(dataset, subset, revision=commit or revision)
    except Exception as error:  # the vendor raises whatever its HTTP, Arrow and file layers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if commit is None:
            raise DataError(
                f"{dataset}: the hub cannot be reached and the cache does not hold it: {reason}", hint
            ) from error
        raise DataError(f"{dataset}{_named(subset)}: cannot be loaded: {reason}", hint) from error
    source = f"{dataset}{_named(subset)}"
    tables = _split_tables(source, loaded, splits, needed)
    if commit is not None:
        return tables, f"{source} was read from the hub, commit {commit}"
    cached = _cached_commit(loaded)
    # The vendor takes the newest that it finds in its cache, whichever revision was asked for.
    if revision and re.fullmatch(r"[0-9a-f]{7,40}", revision) and not cached.startswith(revision):
        raise DataError(
            f"{dataset}: the hub cannot be reached and the cache holds commit {cached}, not revision {revision}", hint
        )
    return tables, f"{source} was read from the local cache, commit {cached}, since the hub cannot be reached"


def folder_tables(
    folder: Path, subset: str | None, splits: Mapping[str, str], needed: Sequence[str]
) -> dict[str, Table]:
    """Splits of a data set in a folder: saved by ``save_to_disk``, or Parquet files named for their splits.

    Args:
        folder: Holds ``dataset_dict.json``, or files such as ``train.parquet`` or ``train-00000-of-00001.parquet``,
            directly, in ``data/``, or in a folder named like the subset.
        subset: Its configuration, if the folder holds several.
        splits: Their names there, by ours; one of ours named ``test`` may be absent.
        needed: Columns that they must have.

    Raises:
        DataError: The folder holds neither, or not the splits or columns.
    """
    base = data_folder(folder, subset)
    if (base / DICT_FILE).exists():
        _check_saved(base)
        datasets = require("datasets", "torch")
        try:
            loaded = datasets.load_from_disk(str(base))
        except Exception as error:  # the vendor raises whatever its Arrow and file layers raise
            raise DataError(f"{base}: cannot be loaded: {str(error).splitlines()[0]}") from error
        return _split_tables(str(base), loaded, splits, needed)
    if (base / "state.json").exists():
        raise DataError(f"{base}: holds one split; a DatasetDict with splits is expected", "save the whole DatasetDict")
    shards: dict[str, list[Path]] = {}
    for path in safe_folder(base, ("*.parquet",), DataError):
        match = re.fullmatch(r"(.+?)(-\d+-of-\d+)?", path.stem)
        shards.setdefault(match[1] if match else path.stem, []).append(path)
    if not shards:
        raise DataError(
            f"{base}: holds no data set: neither dataset_dict.json nor Parquet files",
            "a folder saved by save_to_disk, or with train.parquet, validation.parquet, … is expected",
        )
    return {
        ours: _joined([read_table(path, needed) for path in shards[theirs]])
        for ours, theirs in _present(str(base), splits, shards)
    }


def data_folder(folder: Path, subset: str | None) -> Path:
    """The folder among the usual places that holds the data itself.

    Raises:
        DataError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", "a hub id looks like owner/name")
    nested = folder / "data"
    base = nested if nested.is_dir() and not any(folder.glob("*.parquet")) else folder
    if subset and is_plain(subset) and (folder / subset).is_dir():
        base = folder / subset
    if base != folder and base.resolve() != folder.resolve() / base.relative_to(folder):
        raise DataError(f"{base} leads to {base.resolve()}; allowed are folders inside", "name the folder itself")
    return base


def _check_saved(base: Path) -> None:
    """Refuse a data set of ``save_to_disk`` whose files name others than its own.

    Raises:
        DataError: A name leads outside, or a file is missing, a link, or no regular file.
    """
    for split in _listed(base, DICT_FILE, "splits"):
        if not is_plain(split):
            raise DataError(f"{base / DICT_FILE} names the split {split!r}; allowed are folders inside", _SAVE_AGAIN)
        check_file(base, f"{split}/dataset_info.json", DataError)
        for entry in _listed(base, f"{split}/state.json", "_data_files"):
            name = entry.get("filename") if isinstance(entry, Mapping) else entry
            if not is_plain(name) or not str(name).endswith(".arrow"):
                raise DataError(
                    f"{base / split}/state.json names the file {name!r}; allowed are .arrow files inside of its folder",
                    _SAVE_AGAIN,
                )
            check_file(base, f"{split}/{name}", DataError)


def _listed(base: Path, name: str, key: str) -> list[Any]:
    """Return the list that a JSON file of a saved data set holds under a key."""
    path = check_file(base, name, DataError)
    value = documents.read_object(path, DataError, _SAVE_AGAIN).get(key)
    if not isinstance(value, list):
        raise DataError(f"{path}: {key} is {value!r}; allowed is a list", _SAVE_AGAIN)
    return value


def folder_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a data folder, by its path there.

    Raises:
        DataError: A file cannot be read, or is a link that leads outside, or no regular file.
    """
    return {Path(name).as_posix(): file_digest(check_file(folder, name, DataError)) for name in disk.files(folder)}


def unlabelled(table: Table, label: str) -> bool:
    """Whether a split hides its labels: the column is absent, empty, or -1 throughout, as GLUE's tests have it."""
    return all(value in (None, "", -1, "-1") for value in table.columns.get(label, ()))


def _commit(dataset: str, revision: str | None, hint: str) -> str | None:
    """The commit that a revision stands for now; None when the hub does not answer."""
    hub = require("huggingface_hub", "torch")
    errors = require("huggingface_hub.errors", "torch")
    try:
        return str(hub.HfApi().dataset_info(dataset, revision=revision, timeout=PROBE_S).sha)
    except errors.HFValidationError as error:
        raise DataError(f"{dataset!r} is neither a folder nor a hub id: {error}", hint) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{dataset}: the hub has no revision {revision!r} of it", hint) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(f"{dataset}: the hub has no such data set, or it needs a login", hint) from error
    except Exception:  # no network: which exception says so depends on the HTTP library beneath
        return None


def _cached_commit(loaded: Any) -> str:
    """The commit of a data set that came from the cache: the cache keeps each in a folder of that name."""
    files = [file["filename"] for split in loaded.values() for file in split.cache_files]
    return Path(files[0]).parent.name if files else "unknown"


@contextmanager
def _offline(datasets: Any, offline: bool) -> Iterator[None]:
    """Keeps the vendor quiet, and from retrying for half a minute what has just failed."""
    constants: Any = require("huggingface_hub.constants", "torch")
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    # What it would say of the cache stands in the note; its bars would fill a log.
    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    if offline:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _split_tables(source: str, loaded: Any, splits: Mapping[str, str], needed: Sequence[str]) -> dict[str, Table]:
    """Tables from a ``DatasetDict``."""
    tables = {}
    for ours, theirs in _present(source, splits, loaded):
        split = loaded[theirs]
        missing = [name for name in needed if name not in split.column_names]
        if missing:
            raise missing_columns(f"{source}: {theirs}", missing, split.column_names)
        columns = split.select_columns(list(needed)).to_dict()
        names = {name: getattr(split.features[name], "names", None) for name in needed}
        tables[ours] = Table(
            f"{source}: {theirs}",
            columns,
            [f"{source}: {theirs}: row {number}" for number in range(1, len(split) + 1)],
            {name: tuple(found) for name, found in names.items() if found},
        )
    return tables


def _present(source: str, splits: Mapping[str, str], found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The splits that are there; only test may be absent."""
    for ours, theirs in splits.items():
        if theirs not in found and ours != "test":
            raise DataError(f"{source}: no split {theirs!r}", suggest(theirs, list(found)))
    return [(ours, theirs) for ours, theirs in splits.items() if theirs in found]


def _joined(tables: Sequence[Table]) -> Table:
    """One table of the shards of a split."""
    first = tables[0]
    columns = {name: [value for table in tables for value in table.columns[name]] for name in first.columns}
    return Table(first.source, columns, [place for table in tables for place in table.places], first.classes)


def _named(subset: str | None) -> str:
    return f" ({subset})" if subset else ""
