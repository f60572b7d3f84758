"""The one caller of transformers' ``from_pretrained``: it loads a folder that was looked at, and sees nothing else.

transformers acts on more than weights and settings: it runs Python files that a config names, fetches kernels and
adapters, unpickles what an index or a folder of another layout holds, and opens files that a tokenizer's settings name.
So the folder's settings are looked at (:mod:`toolchain.model.folder`), and transformers is given a temporary folder
that has links to the files that were looked at, and to no others.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.core.errors import ModelError, require
from toolchain.model.folder import check_folder, check_settings, model_files, read_object

#: Files of a model folder that are not for transformers.
_HIDDEN = ("adapter_config.json", "pytorch_model.bin.index.json")

#: Tokenizers without a fast version that writers of text may have.
SLOW = ("M2M100Tokenizer", "MarianTokenizer")


def config(folder: Path, **settings: Any) -> Any:
    """Return the config of a model folder.

    Args:
        folder: Model folder.
        settings: What it says otherwise.

    Raises:
        ModelError: The folder has something that would run, or that leads outside.
    """
    transformers = require("transformers", "torch")
    check_folder(folder)
    with _staged(folder) as staged:
        loaded = transformers.AutoConfig.from_pretrained(
            staged, trust_remote_code=False, local_files_only=True, **settings
        )
    loaded._name_or_path = str(folder)
    return loaded


def auto_class(head: str) -> Any:
    """Return transformers' class that makes models with a head; "" for an encoder without one."""
    return getattr(require("transformers", "torch"), f"AutoModelFor{head}" if head else "AutoModel")


def model(folder: Path, head: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """Return a model with its weights, and what transformers says of their loading.

    Args:
        folder: Model folder.
        head: What ``AutoModelFor…`` ends with; "" for an encoder without a head.
        settings: Arguments of ``from_pretrained``.

    Raises:
        ModelError: The folder has something that would run, or that leads outside.
    """
    check_folder(folder)
    with _staged(folder) as staged:
        loaded, info = auto_class(head).from_pretrained(
            staged, trust_remote_code=False, local_files_only=True, use_safetensors=True, output_loading_info=True,
            **settings,
        )  # fmt: skip
    loaded.config._name_or_path = loaded.name_or_path = str(folder)
    return loaded, info


def tokenizer(folder: Path, *, slow: Sequence[str] = (), **settings: Any) -> Any:
    """Return the tokenizer of a folder.

    Args:
        folder: Folder with a tokenizer.
        slow: Names of tokenizers that it may have although they have no fast version.
        settings: Arguments of ``from_pretrained``.

    Raises:
        ModelError: It has no fast version, or the folder has something that would run, or that leads outside.
    """
    transformers = require("transformers", "torch")
    check_settings(folder)
    with _staged(folder) as staged:
        _refuse_slow(transformers, folder, slow)
        loaded = transformers.AutoTokenizer.from_pretrained(
            staged, trust_remote_code=False, local_files_only=True, use_fast=True, **settings
        )
    loaded.name_or_path = str(folder)
    if "local_files_only" in loaded.init_kwargs:
        loaded.init_kwargs["local_files_only"] = False  # which would be saved with it
    return loaded


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder with links to the files of a model folder that were looked at, and to no others."""
    constants: Any = require("huggingface_hub.constants", "torch")
    offline = constants.HF_HUB_OFFLINE
    with tempfile.TemporaryDirectory(prefix="toolchain-model-") as name:
        staged = Path(name)
        for path in model_files(folder):
            if path.name in _HIDDEN:
                continue
            settings = _without_paths(path)
            if settings is None:
                (staged / path.name).symlink_to(path.resolve())
            else:
                (staged / path.name).write_text(json.dumps(settings), "utf-8")
        constants.HF_HUB_OFFLINE = True
        try:
            yield staged
        except Exception as error:  # a message names the folder that the user knows
            error.args = tuple(arg.replace(name, str(folder)) if isinstance(arg, str) else arg for arg in error.args)
            raise
        finally:
            constants.HF_HUB_OFFLINE = offline


def _without_paths(path: Path) -> dict[str, Any] | None:
    """Return a tokenizer's settings without those that name files, which transformers would open; None if none does.

    Files of older versions hold the paths of the machine that wrote them.
    """
    if path.name not in ("tokenizer_config.json", "special_tokens_map.json"):
        return None
    settings = read_object(path)
    plain = {key: value for key, value in settings.items() if not _names_file(key, value, path.name)}
    return plain if plain != settings else None


def _names_file(key: str, value: Any, file: str) -> bool:
    if file == "special_tokens_map.json":  # whose entries become settings of any name
        return not key.endswith(("_token", "_tokens"))
    by_name = key.endswith(("_file", "_files")) or key in ("name_or_path", "_name_or_path", "init_inputs")
    return by_name or (key in ("vocab", "merges", "tokenizer_object") and isinstance(value, str))


def _refuse_slow(transformers: Any, folder: Path, slow: Sequence[str]) -> None:
    """Refuse a tokenizer that is written in Python: such ones bring other packages, programs and files.

    Raises:
        ModelError: Its class is known and has no fast version.
    """
    auto: Any = require("transformers.models.auto.tokenization_auto", "torch")
    records = [
        read_object(path) if path.is_file() else {}
        for path in (folder / "tokenizer_config.json", folder / "config.json")
    ]
    by_family = auto.TOKENIZER_MAPPING_NAMES.get(records[1].get("model_type"))
    named = [record.get("tokenizer_class") for record in records]
    families = [by_family] if isinstance(by_family, str | None) else list(by_family)
    for name in filter(None, [*named, *([] if any(named) else families)]):
        bare = str(name).removesuffix("Fast")
        classes = [auto.tokenizer_class_from_name(each) for each in (bare, f"{bare}Fast")]
        known = [each for each in classes if each is not None]
        fast = transformers.PreTrainedTokenizerFast
        if known and bare not in slow and not any(isinstance(c, type) and issubclass(c, fast) for c in known):
            raise ModelError(f"{folder}: {name} has no fast version (tokenizer.json)", "take a model that has one")
