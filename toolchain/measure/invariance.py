"""Gate 4: a sentence's label does not depend on what it is batched or padded with; label flips are counted.

Three runs of the same sentences, in the data's order: alone; in batches of 32, padded to the longest of each; the same
batches padded to 128 tokens. A flip between the first two is the batch's doing, one between the last two the padding's.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.core.stage import Context
from toolchain.measure import parity
from toolchain.measure.process import WorkerProcess, write_texts

#: Batch that is compared with batch 1.
BATCH_SIZE = 32

#: Length that is compared with the batch's own; a model of fewer tokens gives its own.
PADDED_TOKENS = 128

#: The least that a sample holds, and the seed that draws it: a larger sample holds the smaller ones.
SAMPLE = 256
SEED = 17


def positions(mode: str, count: int, seconds: float, seconds_each: float) -> list[int]:
    """Positions of the sentences that are run, in the data's order.

    Args:
        mode: ``full``; ``sample``, of 256; or ``auto``: as many as fit into the time, and no fewer than those.
        count: How many sentences there are.
        seconds: The time.
        seconds_each: How long one sentence takes.
    """
    everything = list(range(count))
    if mode == "full":
        return everything
    fit = int(seconds / max(seconds_each, 1e-9)) if mode == "auto" else 0
    random.Random(SEED).shuffle(everything)
    return sorted(everything[: max(SAMPLE, fit)])


def measure(
    worker: WorkerProcess, texts: Sequence[tuple[str, ...]], chosen: Sequence[int], pad_to: int, context: Context
) -> dict[str, Any]:
    """Counts label flips of an engine that a worker has open.

    Args:
        worker: The engine's process.
        texts: All sentences.
        chosen: Positions of those that are run.
        pad_to: Tokens of the long padding.
        context: Its work folder takes what is passed between the processes.

    Returns:
        ``examples`` run, ``of`` how many, and for ``batch`` and ``padding`` the ``flips``, which of them were toss-ups
        (``ties``, as :func:`parity.judge` has them), their ``indices`` in the split and the largest |Δlogit|. A
        sentence without numbers counts as a flip. ``padding`` is None where the engine tokenizes, and pads, by itself.
    """
    with tempfile.TemporaryDirectory(prefix="invariance-", dir=context.work) as folder:
        file = Path(folder).resolve() / "texts.json"
        write_texts(file, [texts[i] for i in chosen])

        def logits(batch_size: int, pad_to: int = 0) -> tuple[Any, bool]:
            out = file.with_name(f"{batch_size}-{pad_to}.npy")
            options: dict[str, Any] = {"texts": str(file), "batch_size": batch_size, "pad_to": pad_to}
            reply = worker.call("logits", lambda done: None, out=str(out), **options)
            return np.load(out), reply["pads"]

        (alone, pads), (batched, _) = logits(1), logits(BATCH_SIZE)
        padding = {"pad_to": pad_to, **_flips(batched, logits(BATCH_SIZE, pad_to)[0], chosen)} if pads else None
    return {
        "examples": len(chosen),
        "of": len(texts),
        "batch": {"sizes": [1, BATCH_SIZE], **_flips(alone, batched, chosen)},
        "padding": padding,
    }


def _flips(one: Any, other: Any, chosen: Sequence[int]) -> dict[str, Any]:
    finite = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
    differs = parity.flipped(one, other) | ~finite
    return {
        "flips": int(differs.sum()),
        "ties": int((differs & finite & parity.undecided(one, other)).sum()),
        "indices": [int(chosen[i]) for i in np.flatnonzero(differs)],
        "max_difference": float(np.abs(one - other)[finite].max(initial=0)),
    }
