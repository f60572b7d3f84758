"""Gate 4: a sentence's label does not depend on what it is batched or padded with; label flips are counted.

Three runs of the same sentences: alone; in batches of 32, padded to the longest of each; the same batches padded to 128
tokens. A flip between the first two is the batch's doing, one between the last two the padding's.

Sentences that the engine decides by the least come first, beside a random sample, because those are the ones that can
flip. The runs end when every sentence that is left is decided by more than ``SAFETY`` times the largest change that any
run made, so that none of them would flip, or when the flips so far settle that the gate is failed.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain import kinds
from toolchain.core.stage import Context
from toolchain.kinds.contract import Kind
from toolchain.measure import gates, parity
from toolchain.measure.process import WorkerProcess, write_texts

#: Batch that is compared with batch 1.
BATCH_SIZE = 32

#: Length that is compared with the batch's own; a model of fewer tokens gives its own.
PADDED_TOKENS = 128

#: Sentences that are drawn whatever they are decided by, and the seed that draws them; the first run has as many of the
#: least certain ones beside them, and every further run doubles the number.
SAMPLE = 64
SEED = 17

#: A sentence is safe when the engine decides it by so many times the largest change that was seen.
SAFETY = 2.0


def order(margins: NDArray[np.float64]) -> list[int]:
    """Return positions in the order in which sentences are run.

    Args:
        margins: By how much the engine decides each sentence.
    """
    everything = list(range(len(margins)))
    drawn = random.Random(SEED).sample(everything, min(SAMPLE, len(everything)))
    others = set(everything) - set(drawn)
    return [*drawn, *sorted(others, key=lambda position: (float(margins[position]), position))]


def measure(
    worker: WorkerProcess,
    texts: Sequence[tuple[str, ...]],
    margins: NDArray[np.float64],
    pad_to: int,
    context: Context,
    *,
    kind: Kind,
    full: bool = False,
) -> dict[str, Any]:
    """Count label flips of an engine that a worker has open.

    Args:
        worker: The engine's process.
        texts: All sentences.
        margins: By how much the engine decides each, in logits, ``[sentences]``.
        pad_to: Tokens of the long padding.
        context: Its work folder takes what is passed between the processes.
        kind: The kind of task, which says which answers differ.
        full: Run every sentence, whatever the first ones gave.

    Returns:
        ``examples`` run, ``of`` how many; ``change``, twice the largest |Δlogit| of any run, which is what a lead can
        change by; ``least_left``, by how much the least certain sentence that was not run is decided, None where all
        were; ``safe``, whether none of those left would flip. For ``batch`` and ``padding`` the ``flips``, which of
        them were toss-ups (``ties``, as :func:`parity.judge` has them), their ``indices`` in the split and the largest
        |Δlogit|. A sentence without numbers counts as a flip. ``padding`` is None where the engine tokenizes, and pads,
        by itself.
    """
    queue = list(range(len(texts))) if full else order(margins)
    chosen: list[int] = []
    parts: list[tuple[Any, Any, Any]] = []
    size = len(queue) if full else 2 * SAMPLE
    while True:
        fresh = queue[len(chosen) : size]
        parts.append(_run(worker, [texts[i] for i in fresh], pad_to, context))
        chosen += fresh
        found = _counted(kind, parts, chosen, pad_to) | {"examples": len(chosen), "of": len(texts)}
        left = queue[len(chosen) :]
        least = float(min(margins[left])) if left else None
        found |= {"least_left": least, "safe": least is None or least > SAFETY * found["change"]}
        if found["safe"] or gates.invariance(found).failed:
            return found | parity.words(kind)
        size = 2 * len(chosen)


def _run(worker: WorkerProcess, texts: Sequence[tuple[str, ...]], pad_to: int, context: Context) -> tuple[Any, ...]:
    """Return the logits alone, batched, and batched with long padding; None for the last where the engine pads."""
    with tempfile.TemporaryDirectory(prefix="invariance-", dir=context.work) as folder:
        file = Path(folder).resolve() / "texts.json"
        write_texts(file, texts)

        def logits(batch_size: int, pad_to: int = 0) -> tuple[Any, bool]:
            out = file.with_name(f"{batch_size}-{pad_to}.npy")
            options: dict[str, Any] = {"texts": str(file), "batch_size": batch_size, "pad_to": pad_to}
            reply = worker.call("logits", lambda done: None, out=str(out), **options)
            return np.load(out), reply["pads"]

        (alone, pads), (batched, _) = logits(1), logits(BATCH_SIZE)
        return alone, batched, logits(BATCH_SIZE, pad_to)[0] if pads else None


def _counted(kind: Kind, parts: Sequence[tuple[Any, ...]], chosen: Sequence[int], pad_to: int) -> dict[str, Any]:
    alone, batched = (kinds.joined([part[place] for part in parts]) for place in (0, 1))
    batch = {"sizes": [1, BATCH_SIZE], **_flips(kind, alone, batched, chosen)}
    padding = None
    if parts[0][2] is not None:
        padded = kinds.joined([part[2] for part in parts])
        padding = {"pad_to": pad_to, **_flips(kind, batched, padded, chosen)}
    change = 2 * max(run["max_difference"] for run in (batch, padding) if run)
    return {"batch": batch, "padding": padding, "change": change}


def _flips(kind: Kind, one: Any, other: Any, chosen: Sequence[int]) -> dict[str, Any]:
    finite = parity.finite_rows(one) & parity.finite_rows(other)
    agreement = kind.agree(one, other, parity.TIE)
    differs = agreement.differs | ~finite
    return {
        "flips": int(differs.sum()),
        "ties": int((differs & finite & agreement.undecided).sum()),
        "indices": sorted(int(chosen[i]) for i in np.flatnonzero(differs)),
        "max_difference": float(agreement.distance[finite].max(initial=0)),
    }
