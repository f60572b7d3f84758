"""A fast tokenizer's ``tokenizer.json`` with a part of its vocabulary: WordPiece, BPE and unigram.

Rules, which comments repeat by number:

1. Tokens that are no text stay: added tokens, the unknown token, those that the post-processor puts around a text.
2. Single characters stay, bytes among them, so that a word can be spelled; so does a piece with a character that has
   none of its own.
3. BPE: with a token stay all that it is merged from, and a merge stays where its two parts and its result do. Merges
   that leave were never applied in a text whose tokens all stay, so its tokens are the same.
4. Unigram: the piece with the lowest score stays, because the penalty of an unknown character is measured from it.
5. Ids are renumbered in their old order, without gaps.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from toolchain.core.errors import ModelError

KINDS = ("WordPiece", "BPE", "Unigram")

#: Texts that are tokenized at a time.
CHUNK = 4096

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def read(backend: Any, where: str) -> dict[str, Any]:
    """The ``tokenizer.json`` of a tokenizer as a mapping, without truncation and padding.

    Args:
        backend: The ``tokenizers.Tokenizer``.
        where: The checkpoint, for messages.

    Raises:
        ModelError: It is none of those whose vocabulary can be cut.
    """
    record: dict[str, Any] = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    kind = record["model"]["type"]
    if kind not in KINDS:
        raise ModelError(
            f"{where}: a {kind} tokenizer's vocabulary cannot be pruned; allowed are {', '.join(KINDS)}",
            "leave vocabulary_prune out for this model",
        )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if kind == "BPE" and record["model"].get(name):
            raise ModelError(
                f"{where}: its BPE marks tokens by {name} {record['model'][name]!r}; allowed is none, as in RoBERTa",
                "leave vocabulary_prune out for this model",
            )
    return record


def token_ids(record: Mapping[str, Any]) -> dict[str, int]:
    """Every token with its id, added tokens among them."""
    vocabulary = record["model"]["vocab"]
    if record["model"]["type"] == "Unigram":
        vocabulary = {piece: index for index, (piece, _) in enumerate(vocabulary)}
    return dict(vocabulary) | {token["content"]: token["id"] for token in record["added_tokens"]}


def count(record: Mapping[str, Any], texts: Sequence[str]) -> Counter[str]:
    """How often each token occurs in texts, whole as they are."""
    tokenizer = _tokenizer(record)
    found: Counter[int] = Counter()
    for start in range(0, len(texts), CHUNK):
        for encoding in tokenizer.encode_batch_fast(texts[start : start + CHUNK], add_special_tokens=False):
            found.update(encoding.ids)
    # Not by the encoding's own tokens: those of unknown characters are the characters.
    return Counter({token: found[index] for token, index in token_ids(record).items() if index in found})


def always(record: Mapping[str, Any]) -> set[str]:
    """The tokens that stay whatever texts need (rules 1, 2 and 4)."""
    model, ids = record["model"], token_ids(record)
    by_id = {index: token for token, index in ids.items()}
    kept = {token["content"] for token in record["added_tokens"]}
    kept |= {by_id[row[at]] for row, at in _ids_within(record["post_processor"])}
    if model["type"] == "Unigram":
        kept |= {by_id[model["unk_id"]]} if model["unk_id"] is not None else set()
        kept.add(min(model["vocab"], key=lambda item: item[1])[0])
    elif model["unk_token"] in ids:
        kept.add(model["unk_token"])
    prefix = model["continuing_subword_prefix"] if model["type"] == "WordPiece" else ""
    tokenizer = _tokenizer(record)
    for token in ids.keys() - kept:
        begun = not prefix or not token.startswith(prefix) or token == prefix
        letters = token if begun else token.removeprefix(prefix)
        spelled = [letter if begun and not at else prefix + letter for at, letter in enumerate(letters)]
        if len(letters) == 1 or _BYTE.fullmatch(token):
            kept.add(token)
        elif not all(letter in ids for letter in spelled):
            # What the tokenizer splits by itself, such as [unused1], no text becomes.
            outside = prefix and begun and tokenizer.encode(token, add_special_tokens=False).tokens != [token]
            if not outside:
                kept.add(token)
    return kept


def origins(record: Mapping[str, Any]) -> Callable[[str], set[str]]:
    """A function from a token to the tokens that have to stay with it, itself among them (rule 3)."""
    model, ids = record["model"], token_ids(record)
    added = {token["content"] for token in record["added_tokens"]}
    ranks: dict[tuple[str, str], int] = {}
    if model["type"] == "BPE":
        ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}

    def origins_of(token: str) -> set[str]:
        found = {token}
        if not ranks or token in added:
            return found
        pieces = list(token)
        found.update(pieces)
        while len(pieces) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(pieces)))
            if rank == len(ranks):
                break
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            found.add(pieces[at])
        return found & ids.keys()

    return origins_of


def keep(record: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """The ``tokenizer.json`` with these tokens alone, renumbered (rules 3 and 5).

    Args:
        record: The tokenizer as it is.
        kept: Tokens that stay; those of ``always`` among them, and the origins of each.
    """
    made = copy.deepcopy(dict(record))
    model, ids = made["model"], token_ids(record)
    order = sorted(kept, key=ids.__getitem__)
    new = {token: index for index, token in enumerate(order)}
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            model["unk_id"] = new[model["vocab"][model["unk_id"]][0]]
        model["vocab"] = [[piece, score] for piece, score in model["vocab"] if piece in new]
    else:
        model["vocab"] = {token: new[token] for token in order if token in model["vocab"]}
    if model["type"] == "BPE":
        pairs = [(merge, _pair(merge)) for merge in model["merges"]]
        model["merges"] = [merge for merge, (left, right) in pairs if {left, right, left + right} <= new.keys()]
    for token in made["added_tokens"]:
        token["id"] = new[token["content"]]
    renumbered = {ids[token]: index for token, index in new.items()}
    for row, at in _ids_within(made["post_processor"]):
        row[at] = renumbered[row[at]]
    return made


def _tokenizer(record: Mapping[str, Any]) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(record))


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """A merge's two parts; older files write them as one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _ids_within(processor: Mapping[str, Any] | None) -> Iterator[tuple[list[Any], int]]:
    """Where a post-processor holds ids: a list, and the position in it."""
    if processor is None:
        return
    for inner in processor.get("processors", ()):
        yield from _ids_within(inner)
    if processor["type"] == "TemplateProcessing":
        for entry in processor["special_tokens"].values():
            yield from ((entry["ids"], at) for at in range(len(entry["ids"])))
    elif processor["type"] in ("BertProcessing", "RobertaProcessing"):
        yield from ((processor[end], 1) for end in ("sep", "cls"))
