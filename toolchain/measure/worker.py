"""The process that holds one engine while it is evaluated or timed: commands in, answers out, one JSON line each.

It does nothing between commands, so that any number of them can be loaded while one is measured. It ends when its
parent does, however that ends.

=============  ==========================================================================================
``open``       loads an engine; gives import, load and first-answer times in seconds, and its inputs
``predict``    writes the probabilities (the activated answers) of a file of texts; gives each one's tokens, and seconds
``logits``     writes the logits (the answers) of a file of texts in their own order, in batches of a size and padding
``reference``  writes the logits of the same texts, in the same batches, of the graph that an engine was built from
``diverging``  the first node at which the engine's graph parts from that graph
``saturation`` how many int8 products of that graph overflow where the processor adds them in 16 bits
``products``   how many products of 8-bit weights that graph has
``placement``  how many nodes ran where
``sample``     loads the texts that are timed; gives their tokens
``probe``      runs a few batches; gives seconds per example
``measure``    runs one slice of a round; gives times, and energy where the machine counts it
``memory``     peak memory of this process, in bytes, with batches of mixed shapes
=============  ==========================================================================================
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from toolchain.core.errors import EngineError, MissingPackageError, ToolchainError, out_of_memory, refuse_lost
from toolchain.core.failure import record, summary
from toolchain.core.garbage import uncollected
from toolchain.core.session import TEXT_INPUT
from toolchain.measure.energy import EnergyMeter

#: Examples that ``predict`` tokenizes at a time: enough to sort by length, few enough for any memory.
CHUNK_BATCHES = 32

#: Sentences among which the one is sought whose values are looked into.
DIVERGING_SAMPLE = 32

#: Untimed calls at batch 1 before a slice, one at every other batch size: another engine has had the caches since.
REWARM_CALLS = 2

#: Linux's prctl option: the signal that this process gets when its parent dies.
_PR_SET_PDEATHSIG = 1

Reply = dict[str, Any]


class Worker:
    """One engine and the texts that it is measured on.

    Args:
        say: Sends a line that is not yet the answer, such as progress.
    """

    def __init__(self, say: Callable[[Reply], None]) -> None:
        self._say = say
        self._predictor: Any = None
        self._texts: list[tuple[str, ...]] = []
        self._encoded: list[Any] = []
        self._meter = EnergyMeter()
        self._graphs: dict[str, Any] = {}  # the one that the engine is compared with: it is asked for several times

    def open(self, folder: str, threads: int) -> Reply:
        """Loads an engine; the runtime's own import is timed apart from the session."""
        from toolchain.core import registry
        from toolchain.core.hooks import Engine
        from toolchain.engines.shared.artifact import read_engine
        from toolchain.runtime.predictor import Predictor, open_engine

        path = Path(folder)
        engine = read_engine(path).engine
        started = time.perf_counter()
        if engine in registry.names("engines"):
            for name in registry.get("engines", engine).of(Engine).MODULES:
                with contextlib.suppress(ImportError):  # opening the session says what is missing
                    importlib.import_module(name)
        imported = time.perf_counter()
        session = open_engine(path, threads)
        loaded = time.perf_counter()
        self._predictor = Predictor(path, threads, session=session)
        ready = time.perf_counter()
        self._predictor.probabilities([("a",) * (2 if self._predictor.interface.pair else 1)])
        return {
            "import_s": imported - started,
            "load_s": loaded - imported,
            "first_s": time.perf_counter() - ready,
            "inputs": list(session.inputs),
        }

    def predict(self, texts: str, batch_size: int, out: str) -> Reply:
        """Writes probabilities ``[examples, …]`` of a file of texts as ``.npy``; says how far it is.

        Returns:
            ``tokens`` of each example, how many examples are ``cut``, and ``seconds``.
        """
        import numpy as np

        from toolchain import kinds

        examples = _read_texts(texts)
        started = time.perf_counter()
        rows, tokens, cut, step = [], list[int](), 0, batch_size * CHUNK_BATCHES
        for start in range(0, len(examples), step):
            encoded = self._predictor.encode(examples[start : start + step])
            lengths, longer = self._predictor.lengths(encoded)
            tokens, cut = tokens + lengths, cut + longer
            rows.append(self._predictor.kind.activate(self._predictor.encoded_logits(encoded, batch_size)))
            self._say({"progress": len(encoded)})
        seconds = time.perf_counter() - started
        np.save(out, kinds.joined(rows) if rows else self._predictor.probabilities([]))
        return {"tokens": tokens, "cut": cut, "seconds": seconds}

    def logits(self, texts: str, batch_size: int, out: str, pad_to: int = 0) -> Reply:
        """Writes logits ``[examples, …]`` of a file of texts as ``.npy``, batched in the order they stand in.

        Args:
            texts: File of texts.
            batch_size: Examples per batch.
            out: File to write.
            pad_to: Pad every batch to at least so many tokens.

        Returns:
            How many ``examples``, and whether the engine ``pads`` as it is asked: not where it tokenizes by itself.
        """
        import numpy as np

        from toolchain import kinds

        examples = _read_texts(texts)
        encoded = self._predictor.encode(examples)
        rows = []
        for start in range(0, len(encoded), batch_size):
            rows.append(self._predictor.batch_logits(encoded[start : start + batch_size], pad_to))
            self._say({"progress": len(rows[-1])})
        np.save(out, kinds.joined(rows) if rows else self._predictor.logits([]))
        return {"examples": len(examples), "pads": TEXT_INPUT not in self._predictor.session.inputs}

    def reference(self, graph: str, texts: str, batch_size: int, threads: int, out: str, pad_to: int = 0) -> Reply:
        """Writes the logits of the graph in a folder, run as it stands, or gives the reason why that cannot be."""
        import numpy as np

        from toolchain import kinds
        from toolchain.measure.parity import Graph

        examples = _read_texts(texts)
        starts = range(0, len(examples), batch_size)
        try:
            if graph not in self._graphs:
                self._graphs = {graph: Graph(Path(graph), threads)}
            opened = self._graphs[graph]
            rows = [opened.logits(examples[start : start + batch_size], pad_to) for start in starts]
        except (EngineError, MissingPackageError) as error:
            refuse_lost(error)
            return {"reason": error.message}
        np.save(out, kinds.joined(rows))
        return {"examples": len(examples), "half": opened.half}

    def diverging(self, graph: str, texts: str, floor: float, scratch: str) -> Reply:
        """The first node at which an engine that is an ONNX file parts from its graph; None where it is none."""
        from toolchain.measure.divergence import first_diverging
        from toolchain.measure.parity import MODEL_FILE

        engine = self._predictor.folder
        if not (engine / MODEL_FILE).is_file():
            return {"first": None}
        examples = _read_texts(texts)[:DIVERGING_SAMPLE]
        return {"first": first_diverging(Path(graph), engine, examples, floor, 1, Path(scratch))}

    def products(self, graph: str) -> Reply:
        """How many products of 8-bit weights the graph in a folder has."""
        from toolchain.measure.parity import MODEL_FILE
        from toolchain.measure.saturation import products
        from toolchain.model.graph import load

        return {"products": sum(1 for _ in products(load(Path(graph) / MODEL_FILE)))}

    def saturation(self, graph: str, texts: str, scratch: str) -> Reply:
        """Counts the int8 results of the graph in a folder that overflow 16 bits, or gives the reason why it cannot."""
        from toolchain.measure.saturation import count

        try:
            return count(Path(graph), _read_texts(texts), 1, Path(scratch))
        except (EngineError, MissingPackageError) as error:
            refuse_lost(error)
            return {"reason": error.message}

    def placement(self, scratch: str) -> Reply:
        """Counts nodes by where they ran, and by operator; a profile that this takes is written below a folder."""
        before, tempfile.tempdir = tempfile.tempdir, scratch
        try:
            session = self._predictor.session
            return {"placement": session.placement(), "operators": getattr(session, "operators", {})}
        finally:
            tempfile.tempdir = before

    def sample(self, texts: str) -> Reply:
        """Loads the texts that are timed; ``tokens`` are those of each."""
        self._texts = _read_texts(texts)
        self._encoded = self._predictor.encode(self._texts)
        gc.freeze()  # what was imported and loaded stays; the collections before each slice need not walk through it
        return {"energy_sources": list(self._meter.sources), "tokens": self._predictor.lengths(self._encoded)[0]}

    def probe(self, batch_size: int, calls: int, seconds: float) -> Reply:
        """Runs batches end to end in data order, up to a number of calls or a time, and at least one."""
        spent: list[float] = []
        started = time.perf_counter()
        while len(spent) < calls and (not spent or time.perf_counter() - started < seconds):
            first = len(spent) * batch_size % len(self._texts)
            chosen = (self._texts + self._texts)[first : first + batch_size]
            before = time.perf_counter_ns()
            self._predictor.probabilities(chosen, batch_size, sort=False)
            spent.append((time.perf_counter_ns() - before) * 1e-9 / len(chosen))
        # The later half: the first calls pay for what is set up once, and torch.compile compiles in two of them.
        return {"seconds_per_example": statistics.median(spent[len(spent) // 2 :])}

    def measure(self, batch_size: int, order: str, clocks: Sequence[bool], count: int, seconds: float) -> Reply:
        """Run whole passes over the first texts of the sample, at least one for each clock, while they fit into a time.

        Args:
            batch_size: Examples that are handed over at a time; the most of a batch.
            order: ``sorted``: all at once, batched by length; ``data_order``: as they come, ``batch_size`` at a time,
                each such request split by length; ``padded``: as they come, each request padded to its longest.
            clocks: What is timed, one after the other: end to end from text (True), or from padded batches (False).
            count: How many texts of the sample a pass has.
            seconds: Time for each clock.

        Returns:
            ``slices``, for each clock: ``calls_ms`` of every call at batch 1, pass after pass, ``seconds`` and
            ``examples``, ``joules`` by counter.
        """
        for _ in range(REWARM_CALLS if batch_size == 1 else 1):
            self._predictor.probabilities(self._texts[:batch_size], batch_size)
        passes = [
            (self._end_to_end if tokenize else self._engine_only)(batch_size, order, count) for tokenize in clocks
        ]
        return {"slices": [self._slice(run, batch_size, count, seconds) for run in passes]}

    def _slice(self, run: Callable[[list[int] | None], int], batch_size: int, count: int, seconds: float) -> Reply:
        calls: list[int] = []
        passes, spent = 0, 0
        gc.collect()
        with uncollected():
            start = self._meter.read()
            while True:
                taken = run(calls if batch_size == 1 else None)
                passes, spent = passes + 1, spent + taken
                if (spent + taken) * 1e-9 > seconds:
                    break
            end = self._meter.read()
        return {
            "calls_ms": [call * 1e-6 for call in calls],
            "seconds": spent * 1e-9,
            "examples": passes * count,
            "joules": self._meter.between(start, end),
        }

    def memory(self, rows: int = 0, seconds: float = 0.0) -> Reply:
        """Return the peak memory since this process began.

        Args:
            rows: First run batches of mixed shapes, of up to so many examples each, as a server does: what is timed has
                few shapes, and some runtimes keep memory for each. None are run where it is 0.
            seconds: For how long.
        """
        generator, until = random.Random(0), time.monotonic() + seconds
        while rows and self._encoded and time.monotonic() < until:
            chosen = generator.choices(self._encoded, k=generator.randint(1, rows))
            self._predictor.session.run(self._predictor.collate(self._predictor.rows(chosen)[0]))
        return {"peak_memory_bytes": peak_memory_bytes()}

    def _engine_only(self, batch_size: int, order: str, count: int) -> Callable[[list[int] | None], int]:
        requests = [
            [batch for _, batch in self._predictor.batches(rows, batch_size, order != "padded")]
            for rows, _ in (self._predictor.rows(self._encoded[part]) for part in _requests(count, batch_size, order))
        ]
        return _timed(requests, self._predictor.run_all, time.perf_counter_ns)

    def _end_to_end(self, batch_size: int, order: str, count: int) -> Callable[[list[int] | None], int]:
        predict = self._predictor.probabilities
        requests = [self._texts[part] for part in _requests(count, batch_size, order)]
        return _timed(requests, lambda texts: predict(texts, batch_size, order != "padded"), time.perf_counter_ns)


def _requests(count: int, batch_size: int, order: str) -> list[slice]:
    """What is handed over at a time: everything, where it may be sorted; else as many texts as a batch has."""
    size = count if order == "sorted" else batch_size
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _timed(
    requests: Sequence[Any], run: Callable[[Any], Any], clock: Callable[[], int]
) -> Callable[[list[int] | None], int]:
    def one_pass(calls: list[int] | None) -> int:
        started = clock()
        if calls is None:
            for request in requests:
                run(request)
        else:
            for request in requests:
                before = clock()
                run(request)
                calls.append(clock() - before)
        return clock() - started

    return one_pass


def peak_memory_bytes() -> int:
    """Peak resident memory of this process.

    Linux's ``ru_maxrss`` starts at what the parent had when it made this process; ``VmHWM`` starts anew.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Answers commands from stdin until it ends."""
    # Ctrl-C reaches the whole process group; it is the parent who decides what becomes of this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(reply: Reply) -> None:
        _send(answers, reply)

    worker = Worker(say)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply = getattr(worker, command.pop("do"))(**command)
        except ToolchainError as error:
            kind = "LostProcessError" if out_of_memory(error) else type(error).__name__
            reply = {"error": {"type": kind, "message": error.message, "hint": error.hint}}
        except BaseException as error:  # whatever it is, panics of Rust included, the parent has to hear of it
            kind = "LostProcessError" if out_of_memory(error) else ""
            hint = "" if kind else f"please report it with its traceback, {record(error)}"
            reply = {"error": {"type": kind, "message": summary(error), "hint": hint}}
        _send(answers, reply)


def _send(answers: TextIO, reply: Reply) -> None:
    try:
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
    except BrokenPipeError:
        os._exit(0)  # nobody is left to answer


def _die_with_parent() -> None:
    if sys.platform != "linux":
        return  # elsewhere, the end of stdin is what tells
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get("TOOLCHAIN_PARENT", str(os.getppid())) != str(os.getppid()):
        os._exit(0)  # the parent died before this took hold


def _read_texts(path: str) -> list[tuple[str, ...]]:
    return [tuple(texts) for texts in json.loads(Path(path).read_text(encoding="utf-8"))]


if __name__ == "__main__":
    main()
