"""Texts as a graph reads them: tokenized by the tokenizer beside it, cut to the model's length, padded to batches.

This is the only place that cuts. The result is that of transformers with ``truncation=True``: strategy
``longest_first``, on the tokenizer's ``truncation_side``. The library's own cutting is not used: it keeps what it cuts
off, and of a pair every combination of the pieces, which takes gigabytes for a few long pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain import kinds
from toolchain.core import disk
from toolchain.core.errors import ModelError
from toolchain.core.vendor import vendor
from toolchain.model import checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENIZER_FILE = "tokenizer.json"

#: Sides on which a text may be cut, or a row padded.
SIDES = ("right", "left")

#: Texts that are tokenized at a time; the tokens that are cut off are dropped before the next ones are made.
CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Tokens:
    """One example as tokens, the special ones included and cut to the model's length.

    Attributes:
        ids: Token ids.
        type_ids: Segment of every token.
        cut: Whether the example was longer.
        words: Of each word of the text that is left, the position of its first token, and where its first character is
            and its last one ends; none where nobody reads them.
    """

    ids: list[int]
    type_ids: list[int]
    cut: bool = False
    words: Sequence[tuple[int, int, int]] = ()

    def __len__(self) -> int:
        return len(self.ids)


def load_tokenizer(path: Path, max_length: int) -> Any:
    """Load ``tokenizer.json``, without its own truncation and padding.

    Raises:
        ModelError: The file is missing or damaged, or the length leaves no room beside the special tokens.
    """
    from tokenizers import Tokenizer

    try:
        text = disk.read_bounded(path, name="tokenizer_bytes")
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", "the model's own fast tokenizer goes with it") from error
    with vendor("cannot be used as a tokenizer", path, ModelError, "copy it again"):
        tokenizer = Tokenizer.from_str(text.decode("utf-8"))
    special = tokenizer.num_special_tokens_to_add(False)
    if max_length <= special:
        raise ModelError(
            f"{path} adds {special} special tokens to a text, and max_length is {max_length}",
            f"max_length in interface.json must be {special + 1} or more",
        )
    return tokenizer


def tokenize(
    tokenizer: Any,
    texts: Sequence[tuple[str, ...]],
    max_length: int,
    truncation_side: str = "right",
    *,
    words: bool = False,
) -> list[Tokens]:
    """Tokenize texts and cut them, as transformers does with ``truncation=True``.

    Args:
        tokenizer: A ``tokenizers.Tokenizer``; its own truncation and padding are switched off.
        texts: One tuple of one or two strings per example.
        max_length: Longest input in tokens, the special ones included.
        truncation_side: ``right`` keeps the beginning of a text, ``left`` its end.
        words: Whether to say where the words are; of single texts.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows: list[Tokens] = []
    for start in range(0, len(texts), CHUNK):
        chunk = [
            text[0] if isinstance(text, tuple) and len(text) == 1 else text for text in texts[start : start + CHUNK]
        ]
        hint = "copy its tokenizer.json again"
        with vendor("cannot read these texts", "the tokenizer", ModelError, hint, passes=(TypeError,)):
            encodings = tokenizer.encode_batch(chunk) if words else tokenizer.encode_batch_fast(chunk)
        for text, encoding in zip(chunk, encodings, strict=True):
            ids, type_ids = encoding.ids, encoding.type_ids
            stay: Sequence[int] = range(len(ids))
            if len(ids) > max_length:
                stay = _positions_kept(encoding.sequence_ids, max_length, truncation_side)
                ids, type_ids = [ids[i] for i in stay], [type_ids[i] for i in stay]
            places = words_of(tokenizer.model, str(text), encoding, stay) if words else ()
            rows.append(Tokens(ids, type_ids, cut=len(encoding.ids) > max_length, words=places))
    return rows


def words_of(model: Any, text: str, encoding: Any, stay: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return the words of a text, as transformers' pipeline with ``aggregation_strategy="first"`` joins tokens to them.

    A tokenizer with a prefix for what continues a word (WordPiece's ``##``) says it by that prefix: a token that is as
    long as what it stands for begins a word, and so does an unknown one. Of any other tokenizer, white space separates
    words.

    Args:
        model: The tokenizer's model, from the ``tokenizers`` library.
        text: The text.
        encoding: What the tokenizer gave for it.
        stay: Positions of the tokens that are left of it.

    Returns:
        Of each word, the position of its first token among those left, its first character, and where it ends.
    """
    prefixed = bool(getattr(model, "continuing_subword_prefix", None))
    unknown = getattr(model, "unk_token", None)
    pieces, offsets, sequences = encoding.tokens, encoding.offsets, encoding.sequence_ids
    words: list[tuple[int, int, int]] = []
    for place, position in enumerate(stay):
        if sequences[position] is None:
            continue
        begin, end = offsets[position]
        if prefixed:
            goes_on = len(pieces[position]) != end - begin and pieces[position] != unknown
        else:
            goes_on = begin > 0 and not any(character.isspace() for character in text[begin - 1 : begin + 1])
        if goes_on and words:
            words[-1] = (*words[-1][:2], end)
            continue
        while begin < end and text[begin].isspace():
            begin += 1
        words.append((place, begin, end))
    return words


def _positions_kept(sequence_ids: Sequence[int | None], max_length: int, truncation_side: str) -> list[int]:
    """Return the positions that stay: every special token, and of each text what ``longest_first`` leaves of it."""
    first = [position for position, sequence in enumerate(sequence_ids) if sequence == 0]
    second = [position for position, sequence in enumerate(sequence_ids) if sequence == 1]
    stay = [position for position, sequence in enumerate(sequence_ids) if sequence is None]
    room = max(0, max_length - len(stay))
    for positions, count in zip((first, second), shares(len(first), len(second), room), strict=True):
        stay += positions[len(positions) - count :] if truncation_side == "left" else positions[:count]
    return sorted(stay)


def shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each text of a pair ``longest_first`` keeps, as the ``tokenizers`` library counts.

    The longer text is cut to the length of the shorter; from there on both are cut alike, and the one that was longer
    (or the second, of equal ones) gets the odd token.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text; 0 of a single one.
        room: Tokens that fit beside the special ones.
    """
    if first + second <= room:
        return first, second
    if not second:
        return room, 0
    shorter = min(first, second)
    if 2 * shorter <= room:
        return (shorter, room - shorter) if first <= second else (room - shorter, shorter)
    half = room // 2
    return (half, room - half) if first <= second else (room - half, half)


def encode(folder: Path, texts: Sequence[tuple[str, ...]]) -> list[Tokens]:
    """Tokenize texts as the model was trained to read them.

    Args:
        folder: Folder with ``tokenizer.json`` and ``interface.json``.
        texts: One tuple per example.

    Returns:
        Tokens of each example, without padding.

    Raises:
        ModelError: One of the files is missing or damaged.
    """
    interface = checkpoint.read_json(folder / "interface.json")
    longest = int(interface["max_length"])
    tokenizer = load_tokenizer(folder / TOKENIZER_FILE, longest)
    words = kinds.named(interface).READS_WORDS
    return tokenize(tokenizer, texts, longest, interface.get("truncation_side", SIDES[0]), words=words)


def padded(folder: Path, encoded: Sequence[Tokens], names: Iterable[str] | None = None) -> dict[str, NDArray[np.int64]]:
    """Return one batch of tokenized texts, padded to its longest.

    Args:
        folder: Folder with ``interface.json``.
        encoded: Tokens of each example.
        names: Inputs to give; by default those that the interface names.

    Returns:
        ``[batch, tokens]`` by input.
    """
    interface = checkpoint.read_json(folder / "interface.json")
    fills = {"input_ids": interface.get("pad_id", 0), "token_type_ids": interface.get("pad_type_id", 0)}
    wanted = interface["inputs"] if names is None else names
    return pad(encoded, wanted, fills, interface.get("padding_side", SIDES[0]))


def pad(
    encoded: Sequence[Tokens],
    names: Iterable[str],
    fills: Mapping[str, int],
    padding_side: str = "right",
    pad_to: int = 0,
) -> dict[str, NDArray[np.int64]]:
    """Return one batch, padded to its longest example.

    Args:
        encoded: Tokens of each example.
        names: Of ``input_ids``, ``attention_mask`` and ``token_type_ids``, those to give.
        fills: What stands in the padding, by input; needless for the mask.
        padding_side: Where the padding stands.
        pad_to: Least width in tokens.

    Returns:
        ``[batch, tokens]`` by input.
    """
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    width = max([pad_to, *lengths.tolist()])
    left = padding_side == "left"
    batch = {}
    for name in names:
        if name == "attention_mask":
            real = np.arange(width) >= width - lengths[:, None] if left else np.arange(width) < lengths[:, None]
            batch[name] = real.astype(np.int64)
            continue
        rows = batch[name] = np.full((len(encoded), width), fills[name], dtype=np.int64)
        for row, item in zip(rows, encoded, strict=True):
            row[width - len(item) if left else 0 :][: len(item)] = item.ids if name == "input_ids" else item.type_ids
    return batch


def by_length(encoded: Sequence[Tokens], most: int) -> list[list[int]]:
    """Positions of texts of equal length, at most so many together, the shortest first: batches without padding."""
    groups: list[list[int]] = []
    for index in sorted(range(len(encoded)), key=lambda index: len(encoded[index])):
        if not groups or len(groups[-1]) == most or len(encoded[groups[-1][0]]) != len(encoded[index]):
            groups.append([])
        groups[-1].append(index)
    return groups


def truncation_note(counts: Mapping[str, tuple[int, int]], max_length: int, advice: str = "") -> str:
    """Return how many texts of each split are cut, as a note; empty where none is.

    Args:
        counts: By split, how many texts are cut, and of how many.
        max_length: Tokens after which they are cut.
        advice: What to do about it.
    """
    parts = [f"{cut:,} of {total:,} {name} texts" for name, (cut, total) in counts.items() if cut]
    if not parts:
        return ""
    note = f"{' and '.join(parts)} are longer than {max_length} tokens and are cut"
    return f"{note}: {advice}" if advice else note
