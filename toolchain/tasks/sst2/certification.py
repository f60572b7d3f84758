"""A split to certify on: whole sentences held out of a data set of phrases, with every phrase that is part of one.

A treebank's phrases are parts of its sentences, but GLUE's copy does not say of which. A sentence is a text that is
part of no other, word for word; SST-2's 67,349 phrases give 6,885, nearly all of them known sentences. Whatever stands
in a held-out sentence is kept from training, whichever other sentence it also stands in, and is what is judged on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from toolchain.core.data import Split
from toolchain.core.errors import DataError
from toolchain.tasks.shared.overlap import normalized

#: Raise it when the split of the same data changes: it is part of the data's identity.
VERSION = 1
#: Decides which sentences are held out; every checkpoint of the split must have learned without the same ones.
SEED = 17


def hold_out(train: Split, least: int) -> tuple[Split, Split, str]:
    """Holds sentences out until they and their parts give enough examples.

    Args:
        train: All training examples, single texts: sentences and phrases of them.
        least: How many examples must be judged on.

    Returns:
        What is left to train on; the examples to judge on, grouped by sentence; and a note.

    Raises:
        DataError: The texts do not give so many examples and leave as many to learn from.
    """
    words = [normalized(text)[0] for text in train.texts]
    labels: dict[str, int] = {}
    unclear = set()
    for text, label in zip(words, train.labels, strict=True):
        if labels.setdefault(text, label) != label:
            unclear.add(text)
    sentences = _sentences(words)
    random.Random(SEED).shuffle(sentences)
    found: dict[str, int] = {}
    held = 0
    while len(found.keys() - unclear) < least and held < len(sentences):
        for part in _parts(sentences[held]):
            if part in labels:
                found.setdefault(part, held)
        held += 1
    judged = {text: group for text, group in found.items() if text not in unclear}
    left = [row for row, text in enumerate(words) if text not in found]
    if len(judged) < least or len(left) < least:
        raise DataError(
            f"split: certification: {len(words):,} training texts of {len(sentences):,} sentences do not give "
            f"{least:,} examples to judge on and as many to learn from",
            "it needs GLUE's 67,349 phrases: source: phrases, or a folder with GLUE's train.tsv",
        )
    first = {text: row for row, text in reversed(list(enumerate(words)))}
    rows = sorted(first[text] for text in judged)
    groups = [judged[words[row]] for row in rows]
    test = Split([train.texts[row] for row in rows], [train.labels[row] for row in rows], groups)
    note = (
        f"certification: {held:,} of {len(sentences):,} sentences held out with every phrase that is part of one: "
        f"{len(rows):,} examples to judge on, {len(words) - len(left):,} training rows left out, {len(left):,} kept"
    )
    return train.take(left), test, note


def _sentences(texts: list[str]) -> list[str]:
    """The texts that are part of no other, word for word, in a fixed order."""
    inside: set[str] = set()
    found = []
    for text in sorted(set(texts), key=lambda text: (-len(text.split()), text)):
        if text not in inside:
            found.append(text)
            inside.update(_parts(text))
    return found


def _parts(text: str) -> Iterator[str]:
    """Every run of words of a text, itself among them."""
    words = text.split()
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            yield " ".join(words[start:end])
