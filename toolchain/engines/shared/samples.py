"""Dev texts as an engine reads them: what its settings are tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core.errors import ModelError
from toolchain.core.session import INPUTS
from toolchain.core.stage import Context
from toolchain.engines.shared.batching import Batching, plan_batches
from toolchain.model import checkpoint, tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Samples:
    """Encoded dev texts.

    Attributes:
        folder: Folder with the interface.
        encoded: ``tokenizers.Encoding`` of each text.
    """

    folder: Path
    encoded: Sequence[Any]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(item.ids) for item in self.encoded]

    @property
    def pad_id(self) -> int:
        """Token id that fills a row."""
        return int(checkpoint.read_json(self.folder / "interface.json")["pad_id"])

    def shuffled(self, seed: int) -> Samples:
        """The same texts in another order."""
        order = np.random.default_rng(seed).permutation(len(self.encoded))
        return Samples(self.folder, [self.encoded[index] for index in order])

    def batches(self, size: int, most: int) -> list[dict[str, NDArray[np.int64]]]:
        """Padded batches of the first texts, in order.

        Args:
            size: Texts of a batch.
            most: The most batches.

        Returns:
            Every input that there may be, each ``[batch, tokens]``.
        """
        starts = range(0, min(len(self.encoded), size * most), size)
        return [tokens.padded(self.folder, self.encoded[start : start + size], INPUTS) for start in starts]

    def requests(self, size: int, most: int, concurrency: int) -> list[list[dict[str, NDArray[np.int64]]]]:
        """Requests of the first texts, in order, each cut into batches by the default costs.

        Args:
            size: Texts of a request.
            most: The most requests.
            concurrency: Batches that are computed at a time.

        Returns:
            The padded batches of each request.
        """
        made = []
        for start in range(0, min(len(self.encoded), size * most), size):
            chosen = self.encoded[start : start + size]
            split = plan_batches([len(item.ids) for item in chosen], size, Batching(), concurrency)
            made.append([tokens.padded(self.folder, [chosen[i] for i in batch], INPUTS) for batch in split])
        return made


def encode_dev(source: Path, context: Context) -> Samples:
    """Encodes the dev texts.

    Args:
        source: Folder with ``tokenizer.json`` and ``interface.json``.
        context: The task's data.

    Raises:
        ModelError: One of the two is missing or cannot be read.
    """
    try:
        return Samples(source, tokens.encode(source, context.dataset().dev.texts))
    except ModelError as error:
        raise ModelError(
            f"{source} has no interface.json and tokenizer.json that can be read: {error.message}",
            "engines are tuned on dev texts; 'toolchain export' writes both",
        ) from error
