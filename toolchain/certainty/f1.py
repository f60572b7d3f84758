"""The F1 of counts in resamples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def micro_f1(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``2·right / (2·right + wrong + missing)`` of each resample, 0 to 1; 0 where nothing is counted.

    Args:
        scores: How many answers of each example are right, wrong and missing, ``[examples, 3]``.
        counts: How often each example is drawn, ``[resamples, examples]``.

    Returns:
        ``[resamples]``.
    """
    right, wrong, missing = (counts @ scores).T
    total = 2 * right + wrong + missing
    figures: NDArray[np.float64] = np.divide(2 * right, total, out=np.zeros(len(counts)), where=total > 0)
    return figures
