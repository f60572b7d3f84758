"""Texts as a graph reads them: tokenized by the tokenizer beside it, cut to the model's length, padded to batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core.errors import ModelError
from toolchain.model import checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENIZER_FILE = "tokenizer.json"


def load_tokenizer(path: Path, max_length: int) -> Any:
    """Loads ``tokenizer.json``, cutting to a length and not padding.

    Raises:
        ModelError: The file is missing or damaged, or the length leaves no room beside the special tokens.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", "the model's own fast tokenizer goes with it") from error
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(f"{path} cannot be used as a tokenizer cut at {max_length} tokens: {error}") from error
    return tokenizer


def encode(folder: Path, texts: Sequence[tuple[str, ...]]) -> list[Any]:
    """Tokenizes texts as the model was trained to read them.

    Args:
        folder: Folder with ``tokenizer.json`` and ``interface.json``.
        texts: One tuple per example.

    Returns:
        ``tokenizers.Encoding`` of each, without padding.

    Raises:
        ModelError: One of the files is missing or damaged.
    """
    interface = checkpoint.read_json(folder / "interface.json")
    tokenizer = load_tokenizer(folder / TOKENIZER_FILE, int(interface["max_length"]))
    found: list[Any] = tokenizer.encode_batch([text if len(text) > 1 else text[0] for text in texts])
    return found


def padded(folder: Path, encoded: Sequence[Any], names: Iterable[str] | None = None) -> dict[str, NDArray[np.int64]]:
    """One batch of tokenized texts, padded to its longest.

    Args:
        folder: Folder with ``interface.json``.
        encoded: ``tokenizers.Encoding`` of each text.
        names: Inputs to give; those of the interface where it is not told.

    Returns:
        ``[batch, tokens]`` by input.
    """
    interface = checkpoint.read_json(folder / "interface.json")
    shape = (len(encoded), max(len(item.ids) for item in encoded))
    columns = {
        "input_ids": ("ids", interface.get("pad_id", 0)),
        "attention_mask": ("attention_mask", 0),
        "token_type_ids": ("type_ids", interface.get("pad_type_id", 0)),
    }
    batch = {}
    for name in interface["inputs"] if names is None else names:
        column, fill = columns[name]
        batch[name] = np.full(shape, fill, dtype=np.int64)
        for row, item in zip(batch[name], encoded, strict=True):
            row[: len(item.ids)] = getattr(item, column)
    return batch


def by_length(encoded: Sequence[Any], most: int) -> list[list[int]]:
    """Positions of texts of equal length, at most so many together, the shortest first: batches without padding."""
    groups: list[list[int]] = []
    for index in sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids)):
        if not groups or len(groups[-1]) == most or len(encoded[groups[-1][0]].ids) != len(encoded[index].ids):
            groups.append([])
        groups[-1].append(index)
    return groups
