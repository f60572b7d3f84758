"""What a model folder may hold: looked at before anything is loaded, without importing what would load it.

A folder is data. What of it would run code, fetch something, or bring in another package is refused by name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from toolchain.core import documents, limits
from toolchain.core.errors import ModelError
from toolchain.core.files import check_file, is_plain, safe_folder
from toolchain.model import tokenizer_config, weights_file
from toolchain.model.config import check_weights, read_config

#: What a model folder may hold that decides the result; nothing else is read.
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.spm")

#: Settings of the JSON files that transformers acts on, and what it would do.
_ACTED_ON = {
    "auto_map": "names Python code for transformers to run",
    "custom_pipelines": "names Python code for transformers to run",
    "quantization_config": "has transformers load the weights with another package",
    "transformers_weights": "names another file of weights",
    "fusion_config": "has transformers change its own classes",
    "backbone": "has transformers fetch another model",
    "compile_config": "has transformers compile and run code",
}

#: Settings that name a function, and the names that are transformers' own and need no other package.
_OWN = {
    "attn_implementation": ("eager", "sdpa"),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
    "cache_implementation": ("dynamic", "static"),
}

#: The files that are looked at for such settings.
_SETTINGS_FILES = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")

_SHARD = re.compile(r"(?P<stem>[\w.]+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


#: Name, bytes, time of the last change and inode of a file.
State = tuple[str, int, int, int]


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be a model's, before anything loads it.

    Raises:
        ModelError: With what is missing or not allowed, and what to do.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder", "a model is a folder with config.json and model.safetensors")
    files = model_files(folder)
    given = tuple(sorted((name, text) for name, text in os.environ.items() if name.startswith(limits.PREFIX)))
    _check_content(folder, tuple(map(_state, files)), given)


def _state(path: Path) -> State:
    """Return what tells whether a file is the one that was looked at."""
    facts = path.stat()
    return path.name, facts.st_size, facts.st_mtime_ns, facts.st_ino


@cache
def _check_content(folder: Path, files: tuple[State, ...], given: tuple[tuple[str, str], ...]) -> None:
    """Do what :func:`check_folder` does with the files, once as long as they and the limits that are given stay.

    Args:
        folder: Model folder.
        files: Its files, which may be opened.
        given: Variables of the environment that set limits.
    """
    _refuse_adapter(folder)
    names = {name for name, *_ in files}
    if "config.json" not in names:
        raise ModelError(f"{folder} holds no config.json", "a model folder is what save_pretrained() writes")
    check_settings(folder)
    config = read_config(folder)
    if any(name.endswith(".safetensors") for name in names):
        _check_shards(folder, names)
        for name in sorted(names):
            if name.endswith(".safetensors"):
                weights_file.tensors(folder / name)
        check_weights(folder, config)
        return
    if any(folder.glob("pytorch_model*.bin")):
        raise ModelError(
            f"{folder} holds its weights as a pickle (pytorch_model.bin), which can run code and is never loaded",
            "convert it once where you trust it, with transformers: from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    raise ModelError(f"{folder} holds no *.safetensors file", "a model folder is what save_pretrained() writes")


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model folder that decide the result, sorted by name.

    Raises:
        ModelError: One of them is a link that leads outside, or no regular file.
    """
    return [path for path in safe_folder(folder, PATTERNS) if path.name != "manifest.json"]


def check_settings(folder: Path) -> None:
    """Refuse settings that have transformers run code, fetch something, or load another package; or of other types.

    Raises:
        ModelError: A file has such a setting; it names file, setting and value.
    """
    for path in safe_folder(folder, _SETTINGS_FILES):
        content = read_object(path)
        if path.name == tokenizer_config.TOKENIZER_CONFIG_FILE:
            tokenizer_config.check(path, content)
        for key, value in _settings(content):
            if key in _ACTED_ON and value not in (None, {}, [], False):
                raise ModelError(
                    f"{path}: {key} {_ACTED_ON[key]}, which is never done: {_shown(value)}",
                    f"if transformers knows the architecture itself, take {key} out of the file; "
                    "otherwise the model cannot be used",
                )
            allowed = _OWN.get(key.removeprefix("_").removesuffix("_internal"))
            if allowed and (foreign := sorted(set(_texts(value)) - {*allowed, ""})):
                raise ModelError(
                    f"{path}: {key} is {foreign[0]!r}, which is not a part of transformers; allowed: "
                    f"{', '.join(allowed)}",
                    f"take {key} out of the file: it decides how fast the model computes, not what",
                )


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every setting of a JSON value, those of settings inside settings too; names of labels are none."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, Mapping):
            yield from current.items()
            pending += [inner for name, inner in current.items() if name not in ("id2label", "label2id")]
        elif isinstance(current, list):
            pending += current


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a setting: its own, or those of its parts."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, str):
            yield current
        elif isinstance(current, Mapping):
            pending += current.values()


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 120 else f"{text[:120]}…"


def _refuse_adapter(folder: Path) -> None:
    """Refuse a folder of peft, which holds what was added to another model, such as LoRA, and not the model."""
    if not (folder / "adapter_config.json").is_file():
        return
    adapter = read_object(check_file(folder, "adapter_config.json"))
    kind, base = adapter.get("peft_type", "an unknown type"), adapter.get("base_model_name_or_path", "another model")
    merge = (
        "from peft import AutoPeftModelForSequenceClassification as Model; from transformers import AutoTokenizer; "
        f"Model.from_pretrained({str(folder)!r}).merge_and_unload().save_pretrained('merged'); "
        f"AutoTokenizer.from_pretrained({base!r}).save_pretrained('merged')"
    )
    raise ModelError(
        f"{folder} holds an adapter ({kind}) of {base}, not a whole model (adapter_config.json)",
        f'merge it where peft is installed, and give the folder merged: python -c "{merge}"',
    )


def _check_shards(folder: Path, present: set[str]) -> None:
    """Refuse an index of weights that names anything but safetensors files of its folder, and files that are missing.

    Args:
        folder: Model folder.
        present: Names of its files, which were looked at.
    """
    wanted = set()
    for index in (folder / name for name in sorted(present) if name.endswith(".safetensors.index.json")):
        files = read_object(index).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise ModelError(f"{index} has no weight_map", "copy or download it again")
        for weight, name in files.items():
            if not is_plain(name) or "/" in name or not name.endswith(".safetensors"):
                raise ModelError(
                    f"{index} says that {_shown(weight)} is in {_shown(name)}; allowed are *.safetensors files of its "
                    "own folder",
                    "copy or download it again, from where its weights are safetensors",
                )
        wanted |= set(files.values())
    if not wanted and "model.safetensors" not in present:
        for name in present:
            if match := _SHARD.fullmatch(name):
                count = int(match["count"])
                wanted |= {f"{match['stem']}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)}
    if missing := sorted(wanted - present):
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(wanted)} files of weights: {', '.join(missing[:4])}",
            "copy or download them; they belong beside the others",
        )


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file that was looked at.

    Raises:
        ModelError: The file holds none, or is beyond a limit.
    """
    return documents.read_object(path, ModelError, "copy or make it again")
