"""Session options of ONNX Runtime, timed on dev texts in turns; every trial is recorded.

At batch 1, handing parts of an operator to other threads may take longer than computing it: then single texts are
computed by one thread. Several batches are computed one on each thread, or one after the other by all threads; each way
is timed on requests that are cut as the predictor cuts them for it. Spinning and the arena are tried both ways. A
setting that is not the default must be quicker by ``MARGIN`` to be chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from toolchain.core.log import progress
from toolchain.core.session import ConcurrentSession

BATCH_SIZE = 32

#: Requests of so many texts that throughput is tuned on, and single texts that latency is tuned on.
REQUESTS = 4
TEXTS = 16

#: Threads of a session go on spinning for some milliseconds after its last batch; the next one waits.
SETTLE_S = 0.05

#: A choice other than the default must take at most this share of the default's time.
MARGIN = 0.97

#: Every candidate is timed so often at least, and at most.
LEAST_ROUNDS, MOST_ROUNDS = 3, 15


@dataclass(frozen=True, kw_only=True)
class Options:
    """How sessions are opened and used: what ``engine.json`` keeps.

    Attributes:
        spinning: Idle threads spin for work.
        arena: Freed memory is kept for the next batch.
        single_threads: Threads for a single text; 0 is all.
        streams: Batches computed at a time; 0 is one per thread, 1 is one by all threads.
    """

    spinning: bool = True
    arena: bool = True
    single_threads: int = 0
    streams: int = 0


#: Each question, in the order in which they are decided: what is timed, and the choices, the default first.
_QUESTIONS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("spinning", "single", (True, False)),
    ("single_threads", "single", (0, 1)),
    ("streams", "batch", (0, 1)),
    ("arena", "batch", (True, False)),
)


def tune(
    fixed: dict[str, Any],
    open_with: Callable[[Options], ConcurrentSession],
    singles: Sequence[Any],
    requests: Callable[[int], Sequence[Sequence[Any]]],
    threads: int,
    seconds: float,
) -> tuple[Options, list[dict[str, Any]]]:
    """Decides what is open, one question at a time.

    Args:
        fixed: Options that are given, by name.
        open_with: Opens a session with options.
        singles: Batches of one text.
        requests: Gives requests of several texts, each as the batches that it is cut into where so many are computed at
            a time.
        threads: Threads that there are; with one, only the arena is open.
        seconds: How long it may take in all.

    Returns:
        The options, and every trial: ``{option, value, ms}`` for a text or a request, the median over rounds.
    """
    chosen = Options(**fixed)
    open_questions = [q for q in _QUESTIONS if q[0] not in fixed and (threads != 1 or q[0] == "arena")]
    trials: list[dict[str, Any]] = []
    with progress("tuning", len(open_questions)) as bar:
        for name, kind, values in open_questions:
            sessions = [open_with(replace(chosen, **{name: value})) for value in values]
            alone = [[text] for text in singles]
            work = [alone if kind == "single" else requests(session.concurrency) for session in sessions]
            each = _times(sessions, work, seconds / len(_QUESTIONS))
            trials += [
                {"option": name, "value": value, "ms": round(1000 * taken / len(calls), 4)}
                for value, taken, calls in zip(values, each, work, strict=True)
            ]
            best = min(range(len(values)), key=each.__getitem__)
            if best and each[best] <= MARGIN * each[0]:
                chosen = replace(chosen, **{name: values[best]})
            bar.advance(note=name)
    return chosen, trials


def _times(
    sessions: Sequence[ConcurrentSession], work: Sequence[Sequence[Sequence[Any]]], seconds: float
) -> list[float]:
    """Median seconds of a pass over its calls, for each session; they take turns, and the first pass is not counted."""
    taken: list[list[float]] = [[] for _ in sessions]
    ends, rounds = time.perf_counter() + seconds, 0
    while rounds <= LEAST_ROUNDS or (rounds <= MOST_ROUNDS and time.perf_counter() < ends):
        for session, calls, found in zip(sessions, work, taken, strict=True):
            time.sleep(SETTLE_S)
            _run(session, calls[0])  # its threads wake up
            started = time.perf_counter()
            for batches in calls:
                _run(session, batches)
            found.append(time.perf_counter() - started)
        rounds += 1
    return [median(found[1:]) for found in taken]


def _run(session: ConcurrentSession, batches: Sequence[Any]) -> None:
    if len(batches) == 1:
        session.run(batches[0])
    else:
        session.run_many(batches)
