"""Training sentences that ranges are calibrated on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from toolchain.core.stage import Context
from toolchain.model import tokens


def calibration_batches(source: Path, samples: int, context: Context) -> list[dict[str, Any]]:
    """Tokenized training sentences in batches of equal length, because padding would widen the ranges.

    Args:
        source: Folder with tokenizer and interface.
        samples: Sentences to draw, seeded.
        context: Gives seed and data.

    Returns:
        Batches of at most 16 sentences, each input ``[batch, tokens]`` int64.
    """
    texts = context.dataset().train.texts
    chosen = random.Random(context.seed).sample(range(len(texts)), min(samples, len(texts)))
    encoded = tokens.encode(source, [texts[index] for index in chosen])
    return [tokens.padded(source, [encoded[i] for i in group]) for group in tokens.by_length(encoded, 16)]
