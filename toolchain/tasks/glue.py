"""Any GLUE-like data set, from the hub or a folder: single sentences or pairs with a class, no code.

``dataset`` is a hub id, a folder saved by ``datasets``' ``save_to_disk``, or a folder of Parquet files named for their
splits. GLUE's tests hide their labels: there, the dev split judges (which is what papers report), and dev is held out
from training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain.core.data import Dataset
from toolchain.core.stage import Ge, Gt, Lt, StageConfig
from toolchain.tasks.shared.examples import Columns, absent_classes, class_names, examples, hold_out, text_columns
from toolchain.tasks.shared.hub import data_folder, folder_digests, folder_tables, hub_tables, unlabelled
from toolchain.tasks.shared.overlap import without_overlaps

VERSION = 1

_HINT = "give a folder as dataset: one saved by save_to_disk, or with Parquet files; or use files:"


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of a GLUE-like data set.

    Attributes:
        dataset: Hub id (``nyu-mll/glue``) or folder.
        subset: Its configuration (``mrpc``).
        text: The column of the text, or two columns for sentence pairs.
        label: The column of the class.
        train: Name of the training split.
        dev: Name of the split that selection reads.
        test: Name of the split that judges; where it is absent or has no labels, dev judges and selection reads
            a part held out from train.
        revision: Commit, branch or tag on the hub. Pin a commit to have a later change there noticed.
        holdout: Share of train to hold out where test has no labels.
        seed: Seed of the hold-out, apart from the seed of training.
        drop_overlaps: Leave out training rows whose text is also in test.
    """

    dataset: str
    subset: str | None = None
    text: str | tuple[str, ...] = "sentence"
    label: str = "label"
    train: str = "train"
    dev: str = "validation"
    test: str = "test"
    revision: str | None = None
    holdout: Annotated[float, Gt(0), Lt(0.5)] = 0.1
    seed: Annotated[int, Ge(0)] = 17
    drop_overlaps: bool = True

    def __post_init__(self) -> None:
        """Checks what ranges cannot say."""
        if self.label in text_columns(self.text):
            raise ValueError(f"label: {self.label!r} is also a text column")


def held_here(config: Config) -> bool:
    """Return whether the data lie here as Parquet files, so that they can be looked at before a run."""
    return (folder := _folder(config)) is not None and not (folder / "dataset_dict.json").exists()


def load(config: Config) -> Dataset:
    """Loads and checks the data set.

    Raises:
        DataError: It cannot be reached or read, or rows of it cannot be used.
    """
    columns = Columns(text_columns(config.text), config.label)
    names = {"train": config.train, "dev": config.dev, "test": config.test}
    notes: list[str] = []
    if (folder := _folder(config)) is not None:
        tables = folder_tables(folder, config.subset, names, columns.all)
    else:
        tables, note = hub_tables(config.dataset, config.subset, config.revision, names, columns.all, _HINT)
        notes.append(note)
    classes = class_names(tables["train"], config.label)
    train = examples(tables["train"], columns, classes)
    dev = examples(tables["dev"], columns, classes)
    if "test" in tables and not unlabelled(tables["test"], config.label):
        test = examples(tables["test"], columns, classes)
    else:
        test, rows = dev, len(train)
        train, held = hold_out(train, config.holdout, ["dev"], config.seed)
        dev = held["dev"]
        notes.append(
            f"{config.test!r} is absent or has no labels: {config.dev!r} is the test, and dev is {len(dev):,} of the "
            f"{rows:,} training rows, held out (seed {config.seed}, every class alike)"
        )
    train, overlaps = without_overlaps(train, dev, test, config.drop_overlaps)
    notes += [*overlaps, *absent_classes(train, classes, "train"), *absent_classes(test, classes, "test")]
    return Dataset(train, dev, test, classes, tuple(notes))


def identity(config: Config) -> dict[str, Any]:
    """What decides the data: a folder's digests, or the id and the revision asked for; and how it is read.

    The revision is the one in the settings: what it stands for on the hub today is not asked, so that a finished run
    stays a hit without a network. The commit that was read is in the data set's notes.

    Raises:
        DataError: A file cannot be read.
    """
    folder = _folder(config)
    where: dict[str, Any] = (
        {"dataset": config.dataset, "subset": config.subset, "revision": config.revision}
        if folder is None
        else {"files": folder_digests(data_folder(folder, config.subset))}
    )
    return where | {
        "text": list(text_columns(config.text)),
        "label": config.label,
        "splits": [config.train, config.dev, config.test],
        "holdout": config.holdout,
        "seed": config.seed,
        "drop_overlaps": config.drop_overlaps,
    }


def _folder(config: Config) -> Path | None:
    """The folder that ``dataset`` names, or None when it is a hub id."""
    path = Path(config.dataset).expanduser()
    owner, slash, _ = config.dataset.partition("/")
    is_id = config.dataset.count("/") <= 1 and not config.dataset.startswith((".", "~", "/"))
    is_id = is_id and not (slash and Path(owner).is_dir()) and not config.dataset.endswith("/")
    return None if is_id and not path.is_dir() else path
