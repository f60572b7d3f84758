"""Takes in what a user holds: a model folder, an ONNX file or folder, or an engine, as an artifact like any other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from toolchain import kinds
from toolchain.core.artifact import digest
from toolchain.core.data import CLASSIFICATION, Dataset
from toolchain.core.errors import ModelError
from toolchain.core.files import check_file, copy_files, safe_folder
from toolchain.core.manifest import MANIFEST
from toolchain.core.session import INPUTS
from toolchain.core.stage import Context, Ge, Kind, Metrics, MinLen, StageConfig
from toolchain.model import checkpoint, door, graph, heads, onnx_file, onnx_head, source, vocabulary
from toolchain.model import folder as model_folder
from toolchain.model.labels import adopted_labels, label_names, own_labels
from toolchain.model.tokens import TOKENIZER_FILE

VERSION = 5
LIBRARIES = ("transformers",)


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """What to take in.

    Attributes:
        path: Model folder, package: or hub source, ``.onnx`` file or folder with one, or an engine folder.
        tokenizer: Folder with the tokenizer, when it does not lie beside the ONNX file.
        max_length: Tokens after which a text is cut; by default what interface.json says, or else as many as the
            model's positions and its tokenizer allow.
        labels: The task's names of the model's labels, where they differ: {bad: negative, good: positive}.
    """

    path: Annotated[str, MinLen(1)]
    tokenizer: str | None = None
    max_length: Annotated[int, Ge(8)] | None = None
    labels: dict[str, str] | None = None


def kind_of(path: str) -> Kind:
    """What a path holds: ``engine``, ``onnx``, or else a ``checkpoint`` (a folder, a package, a hub id).

    Of a folder with weights and an ONNX file the weights are taken, as they are of the same model's hub id; the ONNX
    file is taken where it is named itself.
    """
    local = Path(path).expanduser()
    if (local / "engine.json").is_file():
        return "engine"
    if (local / "config.json").is_file() and any(local.glob("*.safetensors")):
        return "checkpoint"
    if local.suffix == ".onnx" or _graphs(local):
        return "onnx"
    return "checkpoint"


def refusal(path: str, kind_of_task: str = "") -> tuple[str, str] | None:
    """Return why what a path holds is not for a kind of task, as far as its JSON files tell, and what to do, or None.

    Args:
        path: What is adopted.
        kind_of_task: The kind; where none is named, the one that the folder names, or else classification.

    Raises:
        ModelError: Nothing usable is there.
    """
    kind, local = kind_of(path), Path(path).expanduser()
    folder = source.resolve(path).folder if kind == "checkpoint" else local if local.is_dir() else local.parent
    if folder is not None and kind != "checkpoint":
        safe_folder(folder, (*model_folder.PATTERNS, "*.onnx"))
    if folder is None or not (folder / "config.json").is_file():
        return None  # a hub model that is not here yet, or a graph, which is looked at itself
    return heads.refusal(folder, path, kind_of_task)


def tokenizer_origin(config: Config) -> Path | None:
    """Return the folder whose tokenizer is adopted; None of an engine, and of a graph that came with an interface."""
    kind, local = kind_of(config.path), Path(config.path).expanduser()
    if kind == "engine":
        return None
    if kind == "checkpoint":
        return Path(config.tokenizer).expanduser() if config.tokenizer else source.resolve(config.path).folder
    path = graph_file(local)
    where = _tokenizer_folder(config, path, local)
    return None if any((folder / "interface.json").is_file() for folder in (path.parent, where)) else where


def identity(config: Config) -> dict[str, Any]:
    """Digests of the local files that decide the result, by name; where they lie plays no part.

    Returns:
        ``files``, empty for a hub model that is not here yet; ``tokenizer``, empty when it lies beside them; and those
        settings that are given.

    Raises:
        ModelError: Nothing usable is there.
    """
    beside = Path(config.tokenizer).expanduser() if config.tokenizer else _tokenizer_above(config)
    extra = _settings_files(beside) if beside else []
    local = Path(config.path).expanduser()
    root = local.parent if local.is_file() else local
    given = {"max_length": config.max_length, "labels": config.labels}
    return {
        "files": {_name(path, root): digest(path) for path in _files(config.path)},
        "tokenizer": {path.name: digest(path) for path in extra},
        **{name: value for name, value in given.items() if value is not None},
    }


def _tokenizer_above(config: Config) -> Path | None:
    """Return the folder above an ONNX file's own that has its tokenizer; None where it lies in the ones looked at."""
    local = Path(config.path).expanduser()
    if kind_of(config.path) != "onnx" or not local.is_file():
        return None
    where = local.parent.parent
    return where if not (local.parent / TOKENIZER_FILE).is_file() and (where / TOKENIZER_FILE).is_file() else None


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _files(held: str) -> list[Path]:
    kind, local = kind_of(held), Path(held).expanduser()
    if kind == "engine":
        named = checkpoint.read_json(local / "engine.json").get("files")
        own = [check_file(local, name) for name in named] if isinstance(named, list) else []
        return sorted({*own, *(path for path in safe_folder(local, ("*.json",)) if path.name != MANIFEST)})
    if kind == "onnx":
        model = graph_file(local)
        folders = {model.parent, local if local.is_dir() else model.parent}
        found = [path for folder in folders for path in _settings_files(folder)]
        data = (model.parent / name for name in onnx_file.inspect(model).external)
        return sorted({model, *found, *data})
    folder = source.resolve(held).folder
    if folder is None:
        return []
    modules = [path.relative_to(folder).as_posix() for path in folder.glob("*_*/config.json")]
    return [*model_folder.model_files(folder), *(check_file(folder, name) for name in sorted(modules))]


def _settings_files(folder: Path) -> list[Path]:
    """Return the files of a folder that go with a graph: what a model folder has besides weights."""
    return [path for path in model_folder.model_files(folder) if path.suffix != ".safetensors"]


def apply(config: Config, out: Path, context: Context) -> Metrics:
    """Copies the artifact's files and writes the interface it lacks.

    Raises:
        ModelError: A part that is needed is missing (weights, tokenizer, class names), or an artifact has been changed.
    """
    kind, local = kind_of(config.path), Path(config.path).expanduser()
    door.check_published(local.parent if local.is_file() else local)
    if kind == "engine":
        if config.labels is not None or config.max_length is not None:
            raise ModelError(
                f"{config.path} is an engine, which is taken as it is; labels and max_length are for what is built",
                "build it again from the graph, with those settings",
            )
        door.admit(local)
        for name in ("engine.json", "interface.json", TOKENIZER_FILE):
            checkpoint.read_json(local / name)
        copy_files(local, [_name(path, local) for path in _files(config.path)], out)
        return {}
    if kind == "onnx":
        return _adopt_onnx(config, out, context)
    return _adopt_checkpoint(config, out, context)


def _adopt_checkpoint(config: Config, out: Path, context: Context) -> Metrics:
    if config.path.startswith("scratch:"):
        raise ModelError(
            f"{config.path} is a new model, and this takes one that is fine-tuned",
            "give a checkpoint folder, or a recipe that fine-tunes it",
        )
    folder = source.fetch(source.resolve(config.path))
    data = context.dataset()
    kind = str(kinds.of_folder(folder)) if data.stand_in else data.kind
    heads.check(folder, kind)
    where = Path(config.tokenizer).expanduser() if config.tokenizer else folder
    door.admit(where)
    of_kind = kinds.get(kind)
    own = own_labels(folder, of_kind)
    labels, notes = adopted_labels(own, data, config.labels, folder)
    others = of_kind.from_folder(folder)
    model = checkpoint.load_model(folder, kind=kind)
    model.config.update(dict(others.config))
    tokenizer = checkpoint.load_tokenizer(where)
    vocabulary.check(model, tokenizer, where)
    if kinds.has_labels(of_kind) and len(own) != model.config.num_labels:
        raise ModelError(
            f"{folder} gives {model.config.num_labels} logits, and names {len(own)} labels: {', '.join(own)}",
            "name each once, in the order of the logits",
        )
    known = checkpoint.read_json(folder / "interface.json") if (folder / "interface.json").is_file() else {}
    known = ({"max_length": others.max_length} if others.max_length else {}) | known
    longest = _max_length(config, known, model.config, tokenizer)
    pair = _pair(known, data, folder)
    checkpoint.save(model, tokenizer, out, max_length=longest, labels=labels, pair=pair, kind=kind)
    if (folder / "history.json").is_file():
        shutil.copyfile(folder / "history.json", out / "history.json")
    graphs = _graphs(folder)
    both = (
        f"{folder.name} holds weights and {', '.join(graphs[:3])}: the weights were taken; name an ONNX file to take it"
    )
    notes = [*notes, *others.notes, *([both] if graphs else [])]
    return {"parameters": checkpoint.count_parameters(model), "notes": notes}


def _max_length(config: Config, known: Mapping[str, Any], model: Any, tokenizer: Any) -> int:
    """Return the longest input: the setting, or interface.json's, or what positions and tokenizer allow."""
    if config.max_length is not None:
        checkpoint.check_length(model, tokenizer, config.max_length)
        return config.max_length
    return int(known.get("max_length") or checkpoint.longest_input(model, tokenizer))


def _pair(known: Mapping[str, Any], data: Dataset, folder: Path) -> bool:
    """Return whether a model reads pairs: as interface.json says, or else as the task has them.

    Raises:
        ModelError: The two differ, or no task is named for a model of pairs.
    """
    own = known.get("pair")
    if data.stand_in and own:
        raise ModelError(f"{folder} takes pairs of texts, and no task is named", "name one: --task TASK")
    if own is None or data.stand_in:
        return not data.stand_in and data.pairs
    if own != data.pairs:
        takes, has = ("pairs of texts", "single texts") if own else ("single texts", "pairs of texts")
        raise ModelError(
            f"{folder / 'interface.json'}: pair is {str(bool(own)).lower()}, a model of {takes}; the task has {has}",
            "take a task of the model's kind: text: [COLUMN, COLUMN] makes pairs",
        )
    return bool(own)


def _adopt_onnx(config: Config, out: Path, context: Context) -> Metrics:
    local = Path(config.path).expanduser()
    path = graph_file(local)
    data = context.dataset()
    if unfit := refusal(config.path, "" if data.stand_in else data.kind):
        raise ModelError(*unfit)
    if not kinds.has_labels(kinds.get(data.kind)):
        raise ModelError(
            f"{path} is a graph, and a model for {data.kind} is taken in as a checkpoint, whose pooling is known",
            "give the folder of the model with its weights and its modules.json",
        )
    with onnx_file.unlinked(path, context.work) as plain:
        door.admit(_tokenizer_folder(config, path, local), plain)
        return _adopt_graph(config, out, context, path, plain)


def _adopt_graph(config: Config, out: Path, context: Context, path: Path, plain: Path) -> Metrics:
    local = Path(config.path).expanduser()
    proto = graph.load(plain)
    names = [value.name for value in proto.graph.input]
    unknown = [name for name in names if name not in INPUTS and name not in {t.name for t in proto.graph.initializer}]
    if unknown or "input_ids" not in names:
        raise ModelError(
            f"{path}: inputs are {', '.join(names)}; a text classifier has {', '.join(INPUTS)}",
            "export it with those input names",
        )
    data, where = context.dataset(), _tokenizer_folder(config, path, local)
    kind = kinds.get(data.kind)
    notes, activation = onnx_head.take_logits(proto, path, kind)
    checkpoint.copy_tokenizer(where, out)
    largest = vocabulary.largest_token(out / "tokenizer.json")
    vocabulary.check_rows(onnx_head.embedding_rows(proto), largest, path)
    known = next((f / "interface.json" for f in (path.parent, where) if (f / "interface.json").is_file()), None)
    interface = checkpoint.read_json(known) if known else {}
    described = next((f / "config.json" for f in (path.parent, where) if (f / "config.json").is_file()), None)
    described_by = checkpoint.read_json(described) if described else {}
    shape = proto.graph.output[0].type.tensor_type.shape.dim
    width = (shape[-1].dim_value if shape else 0) or len(data.labels)
    own = own_labels(known.parent) if known else label_names(described_by, path)
    own = own or [f"LABEL_{index}" for index in range(width)]
    if shape and shape[-1].dim_value and width != len(own):
        raise ModelError(
            f"{path} gives {width} logits, and {known or described} has {len(own)} labels: {', '.join(own)}",
            "name the task that the model was trained on: --task",
        )
    labels, more = adopted_labels(own, data, config.labels, path)
    notes = [*notes, *more]
    if not known or config.max_length is not None:
        tokenizer = checkpoint.load_tokenizer(where)
        positions = SimpleNamespace(**{"model_type": "", **described_by})
        longest = _max_length(config, interface, positions, tokenizer)
        pair = _pair(interface, data, path)
        checkpoint.save_tokenizer(tokenizer, out, max_length=longest, labels=labels, pair=pair, kind=data.kind)
        interface |= checkpoint.read_json(out / "interface.json")
    interface |= {"labels": labels, "pair": _pair(interface, data, path)}
    interface |= {} if data.kind == CLASSIFICATION else {"kind": data.kind}
    dialect = graph.dialect(proto)
    order = [name for name in INPUTS if name in names]
    checkpoint.write_json(out / "interface.json", interface | {"inputs": order, "dialect": dialect})
    graph.save(proto, out / "model.onnx")
    before = plain if activation else None
    onnx_head.try_out(out / "model.onnx", len(interface["labels"]), largest, path, kind, before=before)
    if (path.parent / "history.json").is_file():
        shutil.copyfile(path.parent / "history.json", out / "history.json")
    return {
        "dialect": dialect, "parameters": graph.parameters(proto), "nodes": len(proto.graph.node), "notes": notes,
    }  # fmt: skip


def check_labels(config: Config, data: Dataset) -> None:
    """Check that a model has the task's labels, as far as its JSON files tell: before anything is loaded or built.

    Raises:
        ModelError: It has others, or takes pairs where the task has single texts, or the reverse.
    """
    try:
        folder = described(config.path)
        if folder is None:
            return
        own = own_labels(folder, kinds.get(data.kind))
        interface = folder / "interface.json"
        known = checkpoint.read_json(interface) if interface.is_file() else {}
    except ModelError:
        return  # what is wrong with it is said when it is taken in
    adopted_labels(own, data, config.labels, folder)
    _pair(known, data, folder)


def described(path: str) -> Path | None:
    """Return the folder whose interface.json or config.json describes what a path holds; None where it has neither.

    Raises:
        ModelError: Nothing usable is there.
    """
    local = Path(path).expanduser()
    if kind_of(path) == "checkpoint":
        folders = [folder] if (folder := source.resolve(path).folder) else []
    else:
        folders = [local, local / "onnx"] if local.is_dir() else [local.parent]
    names = ("interface.json", "config.json")
    for folder in folders:
        safe_folder(folder, names)
    return next((folder for name in names for folder in folders if (folder / name).is_file()), None)


def graph_file(local: Path) -> Path:
    """Return the ONNX file that a path names: itself, the folder's only one, or its ``model.onnx``.

    Raises:
        ModelError: There is none, or it is not clear which one is meant.
    """
    if local.suffix == ".onnx":
        if not local.is_file():
            raise ModelError(f"{local}: no such file")
        return local
    names = _graphs(local)
    named = [name for name in names if Path(name).name == "model.onnx"]
    if len(names) > 1 and len(named) != 1:
        listed = ", ".join(names[:8])
        raise ModelError(f"{local} holds {len(names)} ONNX files: {listed}", "name the one that is meant")
    return local / (named or names)[0]


def _graphs(folder: Path) -> list[str]:
    """Return the ONNX files of a folder and of its subfolder ``onnx``, as export tools lay them out."""
    return sorted(path.relative_to(folder).as_posix() for path in (*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")))


def _tokenizer_folder(config: Config, path: Path, local: Path) -> Path:
    def candidates() -> Iterator[Path]:
        if config.tokenizer:
            yield Path(config.tokenizer).expanduser()
        else:
            yield path.parent
            yield local
            yield path.parent.parent

    for folder in candidates():
        if (folder / TOKENIZER_FILE).is_file():
            return folder
    where = config.tokenizer or str(path.parent)
    raise ModelError(f"no tokenizer.json in {where}", "name the folder that holds it: --tokenizer FOLDER")
