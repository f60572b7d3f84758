"""Words of texts, how they are replaced, and the whole words of a tokenizer: those that it reads as one token."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.augment.shared.examples import WORD
from toolchain.core.errors import ModelError, require
from toolchain.core.stage import Context
from toolchain.model import checkpoint

#: How tokenizers mark the beginning of a word: byte-level BPE, SentencePiece.
_MARKS = "Ġ▁"

#: How WordPiece marks a token that goes on with a word.
_GOES_ON = "##"

#: Words whose neighbours are looked for together.
_BLOCK = 1024


def whole_words(tokenizer: Any) -> dict[str, int]:
    """Every word of :data:`WORD`'s kind that is one token of a tokenizer, and that token; cased as the tokenizer is."""
    known = tokenizer.get_vocab()
    words = [
        (text.lstrip(_MARKS), index) for text, index in sorted(known.items(), key=lambda item: item[1])
        if not text.startswith(_GOES_ON)
    ]  # fmt: skip
    words = [(word, index) for word, index in words if WORD.fullmatch(word)]
    if not words:
        return {}
    read = tokenizer([f" {word}" for word, _ in words], add_special_tokens=False)["input_ids"]
    return {word: index for (word, index), ids in zip(words, read, strict=True) if ids == [index]}


def spelled(word: str, known: dict[str, int]) -> str | None:
    """A word as a tokenizer knows it, as it is or in small letters; None where it does not."""
    return word if word in known else word.lower() if word.lower() in known else None


def rewritten(text: str, change: Callable[[str], str]) -> str:
    """A text, each of its words as ``change`` gives it; a word keeps its first capital."""

    def one(match: Any) -> str:
        made = change(match[0])
        return made[:1].upper() + made[1:] if match[0][:1].isupper() else made

    return WORD.sub(one, text)


def words_of(text: Sequence[str]) -> list[str]:
    """The words of a text's sentences, one after the other."""
    return [word for sentence in text for word in WORD.findall(sentence)]


def drawn(places: Sequence[int], part: float, rng: random.Random) -> list[int]:
    """A part of some places, at least one where there are any, in their order."""
    return sorted(rng.sample(places, min(len(places), max(1, round(part * len(places))))))


def replaced(text: Sequence[str], words: Mapping[int, str]) -> tuple[str, ...]:
    """A text with other words at these places, counted over its sentences."""
    places = itertools.count()
    return tuple(rewritten(sentence, lambda word: words.get(next(places), word)) for sentence in text)


def near_words(
    source: Path, words: set[str], context: Context, *, nearest: int, closeness: float
) -> dict[str, list[str]]:
    """The neighbours of words, nearest first; words that have none, or are not one token, are left out.

    Raises:
        ModelError: No word has any.
    """
    torch = require("torch", "torch")
    torch.set_num_threads(context.threads)
    known = whole_words(checkpoint.load_tokenizer(source))
    asked = {word: spelling for word in sorted(words) if (spelling := spelled(word, known))}
    spellings = list(known)
    rows = {word: row for row, word in enumerate(spellings)}
    found: dict[str, list[str]] = {}
    if asked:
        embed = checkpoint.load_for_training(source, context.dataset().labels, context.seed).get_input_embeddings()
        with torch.no_grad():
            table = torch.nn.functional.normalize(embed(torch.tensor([known[word] for word in spellings])), dim=1)
        distinct = sorted(set(asked.values()))
        near: dict[str, list[str]] = {}
        for start in range(0, len(distinct), _BLOCK):
            block = distinct[start : start + _BLOCK]
            own = torch.tensor([rows[word] for word in block])
            cosines = table[own] @ table.T
            cosines[torch.arange(len(block)), own] = -2.0
            values, places = cosines.topk(min(nearest, len(spellings) - 1), dim=1)
            for word, value, place in zip(block, values.tolist(), places.tolist(), strict=True):
                near[word] = [spellings[p] for v, p in zip(value, place, strict=True) if v >= closeness]
        found = {word: near[spelling] for word, spelling in asked.items() if near[spelling]}
    if not found:
        raise ModelError(
            f"{source}: none of the {len(words):,} words of the training examples has a neighbour among the "
            f"{len(known):,} words that its tokenizer reads as one token",
            f"lower closeness (now {closeness:g}), or take another augmentation",
        )
    return found
