"""Spearman's rank correlation in resamples.

Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15 (1904):
Pearson's correlation of ranks, equal values sharing the mean of theirs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spearman(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the rank correlation of each resample, -1 to 1; 0 where all of one value are equal.

    Ranks are counted, and nothing is sorted again for a resample.

    Args:
        values: Two of each example, ``[examples, 2]``.
        counts: How often each example is drawn, ``[resamples, examples]``.

    Returns:
        ``[resamples]``.
    """
    total = counts.sum(axis=1)
    one, other = (_ranks(column, counts) - (total[:, None] + 1) / 2 for column in values.T)
    squares = (counts * one**2).sum(axis=1) * (counts * other**2).sum(axis=1)
    products = (counts * one * other).sum(axis=1)
    correlation: NDArray[np.float64] = np.divide(
        products, np.sqrt(squares), out=np.zeros(len(counts)), where=squares > 0
    )
    return correlation


def _ranks(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean rank of each example's value among those drawn, ``[resamples, examples]``, from 1.

    Args:
        values: One for each example.
        counts: How often each example is drawn, ``[resamples, examples]``.
    """
    _, places = np.unique(values, return_inverse=True)
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))  # where each value begins in that order
    drawn = np.add.reduceat(counts[:, order], starts, axis=1)  # how often each value was drawn
    below = np.cumsum(drawn, axis=1) - drawn
    ranks: NDArray[np.float64] = (below + (drawn + 1) / 2)[:, places]
    return ranks
