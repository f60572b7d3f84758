"""How many times as fast a smaller checkpoint is: both as ONNX Runtime engines in fp32, in the same rounds."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.core.session import ConcurrentSession, Session
from toolchain.core.stage import Context
from toolchain.engines import onnxruntime as engine
from toolchain.model import export, tokens

#: Texts that are timed, evenly over all lengths.
SAMPLES = 64

#: A runtime's threads spin for some milliseconds after a batch; the next engine waits until they sleep.
SETTLE_S = 0.05

#: Folders that are left when a run is killed.
PREFIX = "stopwatch-"


@contextmanager
def stopwatch(
    dense: Path, texts: Sequence[tuple[str, ...]], *, batch_size: int, rounds: int, context: Context
) -> Iterator[Callable[[Sequence[Path]], list[float]]]:
    """Builds the engine of a dense checkpoint once, to time those of others beside it.

    Checkpoints are exported, lowered as for delivery and opened with the engine's default settings, untuned, so that
    they differ by their graphs alone. In every round each engine reads the same texts, in an order that changes;
    an engine's figure is the median over rounds of the dense one's time by its own. At a batch size of 1 texts are read
    one after the other, which is latency; larger batches are handed over together, which is throughput.

    Args:
        dense: Checkpoint folder to compare with.
        texts: What is read, of training or dev; long and short ones are drawn evenly.
        batch_size: Texts at a time.
        rounds: How often each engine reads them all.
        context: Threads of the engines, a folder to work in, and the data that an export is checked on.

    Yields:
        ``time(checkpoints)``: for each, how many times as fast as the dense one it is; above 1 is faster.
    """
    for litter in context.work.glob(f"{PREFIX}*"):
        shutil.rmtree(litter)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=context.work) as name:
        folder = Path(name)
        reference = _built(dense, folder / "dense", context)
        batches = _batches(folder / "dense" / "onnx", texts, batch_size)

        def timed(checkpoints: Sequence[Path]) -> list[float]:
            with tempfile.TemporaryDirectory(dir=folder) as inner:
                built = [_built(path, Path(inner) / str(n), context) for n, path in enumerate(checkpoints)]
                return _speedups([reference, *built], batches, batch_size, rounds)

        yield timed


def _built(source: Path, folder: Path, context: Context) -> Session:
    """The opened engine of a checkpoint."""
    graph, built = folder / "onnx", folder / "engine"
    graph.mkdir(parents=True)
    built.mkdir()
    within = dataclasses.replace(context, work=folder)
    export.apply(source, graph, export.Config(), within)
    engine.build(graph, built, engine.Config(tune=False), within)
    return engine.open_session(built, context.threads)


def _batches(folder: Path, texts: Sequence[tuple[str, ...]], size: int) -> list[Mapping[str, Any]]:
    encoded = sorted(tokens.encode(folder, texts), key=lambda item: -len(item.ids))
    count = min(SAMPLES, len(encoded))
    drawn = [encoded[index * len(encoded) // count] for index in range(count)]
    return [tokens.padded(folder, drawn[start : start + size]) for start in range(0, count, size)]


def _speedups(
    sessions: Sequence[Session], batches: Sequence[Mapping[str, Any]], batch_size: int, rounds: int
) -> list[float]:
    """How many times as fast as the first session the others are."""
    read = [[{name: batch[name] for name in session.inputs} for batch in batches] for session in sessions]

    def once(index: int) -> float:
        session, started = sessions[index], time.perf_counter()
        if batch_size > 1 and isinstance(session, ConcurrentSession):
            session.run_many(read[index])
        else:
            for batch in read[index]:
                session.run(batch)
        return time.perf_counter() - started

    for index in range(len(sessions)):
        once(index)
    ratios: list[list[float]] = [[] for _ in sessions]
    for number in range(rounds):
        taken = [0.0] * len(sessions)
        for index in ((number + offset) % len(sessions) for offset in range(len(sessions))):
            time.sleep(SETTLE_S)
            sessions[index].run(read[index][0])
            taken[index] = once(index)
        for found, own in zip(ratios, taken, strict=True):
            found.append(taken[0] / own)
    return [statistics.median(found) for found in ratios[1:]]
