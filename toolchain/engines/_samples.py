"""Dev texts as an engine reads them: what its settings are tuned on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolchain.core.errors import ModelError
from toolchain.core.stage import Context

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Samples:
    """Encoded dev texts.

    Attributes:
        examples: Token and segment ids of each text.
        pad_id: Token id that fills a row.
    """

    examples: Sequence[tuple[list[int], list[int]]]
    pad_id: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids, _ in self.examples]

    def shuffled(self, seed: int) -> Samples:
        """The same texts in another order."""
        order = np.random.default_rng(seed).permutation(len(self.examples))
        return Samples([self.examples[index] for index in order], self.pad_id)

    def batches(self, size: int, most: int) -> list[dict[str, NDArray[np.int64]]]:
        """Padded batches of the first texts, in order.

        Args:
            size: Texts of a batch.
            most: The most batches.

        Returns:
            Every input that there may be, each ``[batch, tokens]``.
        """
        starts = range(0, min(len(self.examples), size * most), size)
        return [self._collate(self.examples[start : start + size]) for start in starts]

    def _collate(self, examples: Sequence[tuple[list[int], list[int]]]) -> dict[str, NDArray[np.int64]]:
        shape = (len(examples), max(len(ids) for ids, _ in examples))
        batch = {name: np.zeros(shape, dtype=np.int64) for name in INPUTS}
        batch["input_ids"][:] = self.pad_id
        for row, (ids, types) in enumerate(examples):
            batch["input_ids"][row, : len(ids)] = ids
            batch["attention_mask"][row, : len(ids)] = 1
            batch["token_type_ids"][row, : len(ids)] = types
        return batch


def encode_dev(source: Path, context: Context) -> Samples:
    """Encodes the dev texts.

    Args:
        source: Folder with ``tokenizer.json`` and ``interface.json``.
        context: The task's data.

    Raises:
        ModelError: One of the two is missing or cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        interface = json.loads((source / "interface.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_str((source / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source} has no interface.json and tokenizer.json that can be read: {error}",
            "engines are tuned on dev texts; 'toolchain export' writes both",
        ) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(interface["max_length"]))
    texts = [given if len(given) > 1 else given[0] for given in context.dataset().dev.texts]
    encodings = tokenizer.encode_batch_fast(texts)
    return Samples([(encoding.ids, encoding.type_ids) for encoding in encodings], int(interface["pad_id"]))
