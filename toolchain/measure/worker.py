"""The process that holds one engine while it is evaluated or timed: commands in, answers out, one JSON line each.

It does nothing between commands, so that any number of them can be loaded while one is measured. It ends when its
parent does, however that ends.

=============  ==========================================================================================
``open``       loads an engine; gives import, load and first-answer times in seconds, and its inputs
``predict``    writes the probabilities of a file of texts; gives examples and tokens, and says how far it is
``placement``  how many nodes ran where
``sample``     loads the texts that are timed
``probe``      runs a few batches; gives seconds per example
``measure``    runs one slice of a round; gives times, and energy where the machine counts it
``memory``     peak memory of this process, in bytes
=============  ==========================================================================================
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from toolchain.core.errors import ToolchainError
from toolchain.measure.energy import EnergyMeter

#: Examples that ``predict`` tokenizes at a time: enough to sort by length, few enough for any memory.
CHUNK_BATCHES = 32

#: Untimed calls before a slice: another engine has had the caches since.
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

    def open(self, folder: str, threads: int) -> Reply:
        """Loads an engine; the runtime's own import is timed apart from the session."""
        from toolchain.core import registry
        from toolchain.engines._artifact import read_engine
        from toolchain.runtime.predictor import Predictor, open_engine

        path = Path(folder)
        engine = read_engine(path).engine
        started = time.perf_counter()
        if engine in registry.names("engines"):
            for name in getattr(registry.get("engines", engine).module, "MODULES", ()):
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
        """Writes probabilities ``[examples, labels]`` of a file of texts as ``.npy``."""
        import numpy as np

        from toolchain.runtime.predictor import softmax

        examples = _read_texts(texts)
        rows, tokens, step = [], 0, batch_size * CHUNK_BATCHES
        for start in range(0, len(examples), step):
            encoded = self._predictor.encode(examples[start : start + step])
            tokens += sum(map(len, encoded))
            rows.append(softmax(self._predictor.encoded_logits(encoded, batch_size)))
            self._say({"progress": len(encoded)})
        np.save(out, np.concatenate(rows) if rows else np.empty((0, len(self._predictor.labels)), np.float32))
        return {"examples": len(examples), "tokens": tokens}

    def placement(self, scratch: str) -> Reply:
        """Counts nodes by where they ran; a profile that this takes is written below a folder."""
        before, tempfile.tempdir = tempfile.tempdir, scratch
        try:
            return {"placement": self._predictor.session.placement()}
        finally:
            tempfile.tempdir = before

    def sample(self, texts: str) -> Reply:
        """Loads the texts that are timed."""
        self._texts = _read_texts(texts)
        self._encoded = self._predictor.encode(self._texts)
        return {"energy_sources": list(self._meter.sources)}

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

    def measure(self, batch_size: int, sort: bool, tokenize: bool, count: int, seconds: float) -> Reply:
        """Runs whole passes over the first texts of the sample, at least one, while they fit into a time.

        Args:
            batch_size: Examples per call.
            sort: Batch by length.
            tokenize: End to end, from text; otherwise from padded batches.
            count: How many texts of the sample a pass has.
            seconds: Time for the slice.

        Returns:
            ``calls_ms`` of every call at batch 1, ``seconds`` and ``examples``, ``joules`` by counter.
        """
        once = self._end_to_end if tokenize else self._engine_only
        run = once(batch_size, sort, count, REWARM_CALLS)
        calls: list[int] = []
        passes, spent = 0, 0
        gc.collect()
        gc.disable()
        try:
            start = self._meter.read()
            while True:
                taken = run(calls if batch_size == 1 else None)
                passes, spent = passes + 1, spent + taken
                if (spent + taken) * 1e-9 > seconds:
                    break
            end = self._meter.read()
        finally:
            gc.enable()
        return {
            "calls_ms": [call * 1e-6 for call in calls],
            "seconds": spent * 1e-9,
            "examples": passes * count,
            "joules": self._meter.between(start, end),
        }

    def memory(self) -> Reply:
        """Peak memory since this process began."""
        return {"peak_memory_bytes": peak_memory_bytes()}

    def _engine_only(self, batch_size: int, sort: bool, count: int, rewarm: int) -> Callable[[list[int] | None], int]:
        batches = [batch for _, batch in self._predictor.batches(self._encoded[:count], batch_size, sort)]
        run, clock = self._predictor.session.run, time.perf_counter_ns
        for batch in batches[:rewarm]:
            run(batch)

        def one_pass(calls: list[int] | None) -> int:
            started = clock()
            if calls is None:
                for batch in batches:
                    run(batch)
            else:
                for batch in batches:
                    before = clock()
                    run(batch)
                    calls.append(clock() - before)
            return clock() - started

        return one_pass

    def _end_to_end(self, batch_size: int, sort: bool, count: int, rewarm: int) -> Callable[[list[int] | None], int]:
        texts, predict, clock = self._texts[:count], self._predictor.probabilities, time.perf_counter_ns
        predict(texts[: rewarm * batch_size], batch_size, False)

        def one_pass(calls: list[int] | None) -> int:
            started = clock()
            if calls is None:
                predict(texts, batch_size, sort)
            else:
                for text in texts:
                    before = clock()
                    predict([text], 1, False)
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
            reply = {"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}}
        except Exception as error:  # whatever it is, the parent has to hear of it
            traceback.print_exc()
            reply = {"error": {"type": "", "message": f"{type(error).__name__}: {error}", "hint": ""}}
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
