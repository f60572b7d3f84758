"""Bounds the shapes of batches that OpenVINO sees: it keeps kernels for each, and memory grows with every new one.

Two caches hold them, OpenVINO's (``CPU_RUNTIME_CACHE_CAPACITY``, 5,000 entries) and that of oneDNN below it (1,024), so
that 3,000 batches of mixed shapes took gigabytes. The first shapes are computed as they come, which is quickest where
they come again; from then on, new ones are padded to a few steps of rows and tokens.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

#: Shapes that are computed as they come: more than the batches of a benchmark have.
EXACT_SHAPES = 128

#: Rows and tokens that a batch is padded to behind those; larger ones are multiples of the last.
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
TOKENS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128)


class Shapes:
    """The shapes that a session has computed.

    Args:
        masked: Whether the graph reads a mask; without one, what fills a row up would be read as text.
    """

    def __init__(self, *, masked: bool) -> None:
        self._masked, self._known, self._longest = masked, set[tuple[int, int]](), 0

    def target(self, rows: int, tokens: int) -> tuple[int, int]:
        """Return the shape to pad a batch to: its own while there are few, then the next step.

        No batch becomes longer than the longest one that came: the model may have no more positions.
        """
        self._longest = max(self._longest, tokens)
        shape = rows, tokens
        if shape not in self._known:
            if len(self._known) >= EXACT_SHAPES:
                longer = min(_step(tokens, TOKENS), self._longest) if self._masked else tokens
                return _step(rows, ROWS), longer
            self._known.add(shape)
        return shape


def padded(values: NDArray[np.int64], shape: tuple[int, int], fill: int) -> NDArray[np.int64]:
    """Return ids, mask or segments in a larger shape: rows are filled up with a value, and the first row is repeated.

    Args:
        values: ``[rows, tokens]``.
        shape: At least as many rows and tokens.
        fill: What fills a row up.
    """
    rows, tokens = values.shape
    if (rows, tokens) == shape:
        return values
    larger = np.full(shape, fill, dtype=values.dtype)
    larger[:rows, :tokens] = values
    larger[rows:] = larger[0]
    return larger


def _step(count: int, steps: tuple[int, ...]) -> int:
    """Return the least step from a number on."""
    if count <= steps[-1]:
        return steps[bisect_left(steps, count)]
    return -(-count // steps[-1]) * steps[-1]
