"""Texts that stand in more than one split: found, counted, and kept out of training where they would be tested on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from toolchain.core.data import Split
from toolchain.core.errors import DataError

_WORD = re.compile(r"\w+")


def normalized(text: Sequence[str]) -> tuple[str, ...]:
    """A text as compared: case, white space and punctuation do not count; of a pair, both sentences together."""
    folded = [unicodedata.normalize("NFC", part).casefold() for part in text]
    # A text of nothing but signs, such as a smiley, is compared as it is.
    return tuple(" ".join(_WORD.findall(part) or part.split()) for part in folded)


def without_overlaps(train: Split, dev: Split, test: Split, drop: bool) -> tuple[Split, tuple[str, ...]]:
    """Looks for texts that two splits share.

    Args:
        train: Training examples.
        dev: Examples that selection reads; overlaps with it are reported only.
        test: Examples to be judged on; may be ``dev`` itself.
        drop: Leave out training rows whose text is also in test.

    Returns:
        The training examples to use, and a note for every kind of overlap that was found.

    Raises:
        DataError: Nothing to train on is left.
    """
    keys = [normalized(text) for text in train.texts]
    in_train = set(keys)
    in_test = {normalized(text) for text in test.texts}
    notes = []
    shared = in_test & in_train
    if shared:
        rows = [position for position, key in enumerate(keys) if key not in shared]
        found = f"{len(shared):,} of {len(in_test):,} different test texts also {_occur(len(shared))} in train"
        removed = len(keys) - len(rows)
        if drop and not rows:
            raise DataError("every training text is also in test", "drop_overlaps: false keeps them")
        notes.append(
            f"{found}: {removed:,} training {'row' if removed == 1 else 'rows'} "
            + ("left out" if drop else "kept (drop_overlaps: false)")
        )
        train = train.take(rows) if drop else train
    if dev is test:
        return train, tuple(notes)
    in_dev = {normalized(text) for text in dev.texts}
    for name, others in (("train", in_train), ("test", in_test)):
        if both := in_dev & others:
            notes.append(
                f"{len(both):,} of {len(in_dev):,} different dev texts also {_occur(len(both))} in {name}: kept"
            )
    return train, tuple(notes)


def _occur(count: int) -> str:
    return "occurs" if count == 1 else "occur"
