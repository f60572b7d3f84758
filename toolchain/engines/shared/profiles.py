"""Shapes that a GPU's engine is built for: the largest that batches may have, and the one that dev texts have most."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from toolchain.engines.shared.batching import Batching, plan_batches
from toolchain.engines.shared.samples import Samples
from toolchain.model import checkpoint

#: The largest batches where nobody says.
BATCH_SIZES = (1, 32)


@dataclass(frozen=True)
class Profile:
    """Shapes that an engine is built for.

    Attributes:
        rows: Least, best and most rows of a batch.
        tokens: Least, best and most tokens of a row.
    """

    rows: tuple[int, int, int]
    tokens: tuple[int, int, int]

    def shape(self, which: int) -> tuple[int, int]:
        """Its least (0), best (1) or largest (2) shape."""
        return self.rows[which], self.tokens[which]


def profiles_of(samples: Samples, batch_sizes: tuple[int, ...]) -> tuple[Profile, ...]:
    """For each batch size, the shapes that it has to take, and the one that dev texts have most.

    Args:
        samples: Encoded dev texts.
        batch_sizes: The largest batches.
    """
    longest = int(checkpoint.read_json(samples.folder / "interface.json")["max_length"])
    found, least = [], 1
    for size in sorted(set(batch_sizes)):
        batches = plan_batches(samples.lengths, size, Batching())
        tokens = statistics.median_low([max(samples.lengths[index] for index in batch) for batch in batches])
        rows = (least, min(size, max(least, statistics.median_low([len(batch) for batch in batches]))), size)
        found.append(Profile(rows, (1, min(tokens, longest), longest)))
    return tuple(found)
