"""A SentencePiece model made from a fast tokenizer's unigram vocabulary and its normalizer.

``tokenizer.json`` holds the pieces with their scores, and a chain of normalizers. SentencePiece holds both in one
protocol buffer (``sentencepiece_model.proto``), the normalizer as a *character map*: a double-array trie of UTF-8 keys,
as darts-clone lays it out, whose values point into a block of zero-terminated replacements. The chain is asked what
becomes of every character of Unicode, so that the map does in one step what the chain does (NFKD, accents, case, the
chain's own map). What depends on a character's neighbours is not in the map.
"""

from __future__ import annotations

import struct
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

#: Piece types of the proto.
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3

#: ``model_type`` of the proto's trainer.
_UNIGRAM = 1

#: Units of the trie are laid out in blocks of so many, one for each value of a byte.
_BLOCK = 256

#: The largest distance that a unit stores in full; above, its lowest byte has to be 0.
_NEAR = 1 << 21


def sentencepiece_model(
    vocabulary: Sequence[tuple[str, float]],
    unknown: int,
    special: Sequence[int],
    normalize: Callable[[str], str],
    sequences: Sequence[str],
    *,
    squeeze: bool,
) -> bytes:
    """Serializes a unigram model.

    Args:
        vocabulary: Pieces with their scores, in the order of their ids.
        unknown: Id of the unknown piece.
        special: Ids of tokens that text never becomes.
        normalize: The tokenizer's normalizer.
        sequences: Strings of several characters that it replaces as a whole.
        squeeze: Whether runs of white space count as one space.
    """
    control = set(special) - {unknown}
    message = b""
    for index, (piece, score) in enumerate(vocabulary):
        kind = _UNKNOWN if index == unknown else _CONTROL if index in control else _NORMAL
        fields = _bytes(1, piece.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _number(3, kind)
        message += _bytes(1, fields)
    # No ids of beginning, end and padding: the graph adds them.
    absent = (1 << 64) - 1
    trainer = _number(3, _UNIGRAM) + _number(40, unknown) + b"".join(_number(field, absent) for field in (41, 42, 43))
    spec = _bytes(1, b"toolchain") + _bytes(2, character_map(normalize, sequences))
    spec += _number(3, 1) + _number(4, int(squeeze)) + _number(5, 1)  # dummy prefix, extra white space, escape
    return message + _bytes(2, trainer) + _bytes(3, spec)


def character_map(normalize: Callable[[str], str], sequences: Sequence[str]) -> bytes:
    """The character map of a normalizer: the trie's size in bytes, the trie, the replacements.

    Args:
        normalize: What becomes of a string.
        sequences: Strings of several characters that are replaced as a whole.
    """
    block, places = bytearray(), dict[bytes, int]()
    keys: dict[bytes, int] = {}
    for text in (*_characters(), *sequences):
        # White space of any kind separates words.
        result = " " if text.isspace() else normalize(text)
        if result == text:
            continue
        replaced = result.encode()
        if replaced not in places:
            places[replaced] = len(block)
            block += replaced + b"\0"
        keys[text.encode()] = places[replaced]
    trie = b"".join(struct.pack("<I", unit) for unit in double_array(keys))
    return struct.pack("<I", len(trie)) + trie + bytes(block)


def double_array(keys: Mapping[bytes, int]) -> list[int]:
    """A trie as darts-clone's double array.

    A unit's lowest byte is the label that leads to it, bit 8 tells whether a key ends there, bits 10 to 30 its distance
    to its children (× 256 when bit 9 is set); the children of a unit at ``p`` with distance ``d`` stand at ``p ^ d ^
    label``, and the value of the key that ends there at ``p ^ d``, with bit 31 set.

    Args:
        keys: Keys with their values; no key holds a zero byte.

    Returns:
        Units of 32 bits.
    """
    root: dict[int, Any] = {}
    for key, value in keys.items():
        node = root
        for byte in key:
            node = node.setdefault(byte, {})
        node[-1] = value  # the end of a key: its value stands where label 0 would
    units, used = [0] * _BLOCK, bytearray(_BLOCK)
    used[0] = 1
    pending, search = [(root, 0)], 1
    while pending:
        node, position = pending.pop()
        labels = [max(label, 0) for label in node]
        while search < len(used) and used[search]:
            search += 1
        base = _free_base(labels, position, used, search)
        top = base | 0xFF
        if top >= len(units):
            units += [0] * (top + 1 - len(units))
            used += bytes(top + 1 - len(used))
        distance = base ^ position
        units[position] |= (distance << 10) if distance < _NEAR else (distance << 2 | 1 << 9)
        for label, child in node.items():
            place = base ^ max(label, 0)
            used[place] = 1
            if label < 0:
                units[position] |= 1 << 8
                units[place] = child | 1 << 31
            else:
                units[place] = label
                pending.append((child, place))
    return units


def _free_base(labels: Sequence[int], position: int, used: bytearray, search: int) -> int:
    """The first place whose children are all free; 0 is the root's own."""
    first = labels[0]
    place = search
    while True:
        base = place ^ first
        distance = base ^ position
        fits = base and (distance < _NEAR or not distance & 0xFF)
        if fits and all((base ^ label) >= len(used) or not used[base ^ label] for label in labels):
            return base
        place += 1


def _characters() -> Iterator[str]:
    """Every character but those that are no text: surrogates, private use, and zero, which ends a string in C."""
    for code in range(1, sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) not in ("Cs", "Co", "Cn"):
            yield character


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
