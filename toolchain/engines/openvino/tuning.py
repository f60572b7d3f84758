"""Settings of OpenVINO, timed on dev texts at batch 1 and batch 32; every trial is recorded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from toolchain.core.errors import EngineError, refuse_lost
from toolchain.core.log import progress
from toolchain.core.session import INPUTS
from toolchain.core.stage import Context
from toolchain.engines.openvino.ir import WEIGHTS_FILE
from toolchain.engines.openvino.session import OpenvinoSession, Plan, open_plan
from toolchain.engines.shared import contention
from toolchain.engines.shared.samples import Samples, encode_dev

BATCH_SIZE = 32

#: Batches that throughput is tuned on.
BATCHES = 6

#: Single texts that latency is tuned on.
TEXTS = 16

#: Rows and tokens of the two batches that the cost of a call is read from.
CALL_SHAPES = ((8, 8), (8, 32))

#: Nothing is timed more often.
MOST_TIMES = 30

#: More than any batch has tokens: nothing is split.
NEVER_SPLIT = 10**6


class Wanted(Protocol):
    """What tuning reads of the engine's settings; see its ``Config``."""

    @property
    def precision(self) -> str:
        """Return what float operators compute in."""
        ...

    @property
    def performance(self) -> str:
        """Return what the threads are for."""
        ...

    @property
    def streams(self) -> int:
        """Return how many batches are computed at a time; 0 is as tuned."""
        ...

    @property
    def attention(self) -> Literal["auto", "fused", "plain"]:
        """Return the kernel of attention; auto is as tuned."""
        ...

    @property
    def static_lengths(self) -> int:
        """Return how many graphs of fixed length there may be."""
        ...

    @property
    def static_memory_mib(self) -> int:
        """Return the memory that they may take together."""
        ...

    @property
    def call_tokens(self) -> int:
        """Return what one more part of a batch costs, in tokens; 0 is as tuned."""
        ...

    @property
    def dynamic_quantization(self) -> int:
        """Return the group size of activations that are quantized as they come."""
        ...

    @property
    def tune(self) -> bool:
        """Return whether to time settings on dev texts."""
        ...

    @property
    def tune_seconds(self) -> float:
        """Return how long that may take, in seconds."""
        ...


def tuned(source: Path, out: Path, config: Wanted, context: Context) -> tuple[Plan, dict[str, Any]]:
    """Chooses how an engine is run.

    Args:
        source: Folder with ``tokenizer.json`` and ``interface.json``.
        out: Folder with the IR.
        config: What is fixed, and whether and how long to tune the rest.
        context: Threads, dev texts and seed.

    Returns:
        The plan, and a record of what was tried: ``lengths``, ``call_tokens``, ``single`` in ms and ``batch`` in texts
        per second, by setting.
    """
    samples = encode_dev(source, context)
    count = 0 if config.performance == "throughput" else config.static_lengths
    weights = max(1, (out / WEIGHTS_FILE).stat().st_size)
    count = min(count, config.static_memory_mib * 2**20 // weights)
    lengths = best_lengths(samples.lengths, count)
    attention = "plain" if config.attention == "auto" else config.attention
    plan = Plan(
        precision=config.precision,
        performance=config.performance,
        streams=config.streams,
        attention=attention,
        single_attention=attention,
        lengths=lengths,
        call_tokens=config.call_tokens or Plan.call_tokens,
        dynamic_quantization=config.dynamic_quantization,
        pad_id=samples.pad_id,
    )
    record: dict[str, Any] = {"threads": context.threads, "lengths": list(lengths)}
    if not config.tune:
        return _openable(out, plan, config.attention == "auto", context.threads), record
    return _tune(out, plan, config, context, samples, record)


def _openable(out: Path, plan: Plan, any_kernel: bool, threads: int) -> Plan:
    """The plan, or where OpenVINO cannot compile its graphs of fixed length, one without what it cannot compile.

    Args:
        out: Folder with the IR.
        plan: How the engine would be run.
        any_kernel: Whether single texts may have another attention kernel.
        threads: Threads to compute with.
    """
    tries = [plan, replace(plan, single_attention="fused")] if any_kernel else [plan]
    for trial in tries if plan.lengths else ():
        try:
            open_plan(out, trial, threads)
        except EngineError as error:
            refuse_lost(error)
            continue
        return trial
    return replace(plan, lengths=())


def best_lengths(lengths: Sequence[int], count: int) -> tuple[int, ...]:
    """The lengths to which texts are padded at the least cost in all, the longest text's among them.

    Dynamic programming over the lengths that occur:
    ``cost(j, k) = min over i < j of cost(i, k - 1) + texts(i, j)·l_j``.

    Args:
        lengths: Tokens of each text.
        count: How many lengths to choose.

    Returns:
        At most so many lengths, ascending.
    """
    if not lengths or count < 1:
        return ()
    values, texts = np.unique(np.asarray(lengths), return_counts=True)
    before = np.concatenate([[0], np.cumsum(texts)])
    cost = np.where(np.arange(len(values) + 1) == 0, 0.0, np.inf)
    steps = []
    for _ in range(min(count, len(values))):
        table = cost[:, None] + (before[None, 1:] - before[:, None]) * values[None, :]
        table[np.tril_indices(len(values) + 1, -1, len(values))] = np.inf
        steps.append(table.argmin(axis=0))
        cost = np.concatenate([[0.0], table.min(axis=0)])
    chosen, end = [], len(values)
    for step in reversed(steps):
        if end == 0:
            break
        chosen.append(int(values[end - 1]))
        end = int(step[end - 1])
    return tuple(sorted(chosen))


def _tune(
    out: Path, plan: Plan, config: Wanted, context: Context, samples: Samples, record: dict[str, Any]
) -> tuple[Plan, dict[str, Any]]:
    """Tries attention kernels and numbers of streams, each on single texts and on batches."""
    threads = max(1, context.threads)
    # In f16, OpenVINO 2026.4 fuses no attention, whatever is asked for.
    both = ["plain"] if config.precision == "f16" else ["fused", "plain"]
    kernels = both if config.attention == "auto" else [config.attention]
    streams = [plan.streams] if plan.streams or threads == 1 or plan.performance == "latency" else [1, 0]
    budget = config.tune_seconds / (len(kernels) * (2 + len(streams)))
    samples = samples.shuffled(context.seed)
    batches, singles = samples.batches(BATCH_SIZE, BATCHES), samples.batches(1, TEXTS)
    found: dict[str, Any] = {"call_tokens": {}, "single": [], "batch": []}
    others = contention.watch()
    size = 0
    with progress("tuning", len(kernels) * (2 + len(streams))) as bar:
        for kernel in kernels:
            trial = replace(plan, attention=kernel, single_attention=kernel, streams=1, call_tokens=NEVER_SPLIT)
            if not config.call_tokens:
                session = open_plan(out, replace(trial, lengths=()), 1)
                found["call_tokens"][kernel] = _call_tokens(session, budget)
            bar.advance(note=kernel)
            if plan.performance != "throughput":
                found["single"].append({"attention": kernel, **_single(out, trial, threads, singles, budget)})
            bar.advance(note=kernel)
            for number in streams:
                call = config.call_tokens or found["call_tokens"][kernel]
                trial = replace(plan, attention=kernel, streams=number, call_tokens=call, lengths=())
                session = open_plan(out, trial, threads)
                size = size or affordable(session, batches, budget)
                seconds = _seconds(session, batches[:size], budget)
                rows = sum(len(batch["input_ids"]) for batch in batches[:size])
                result = {"attention": kernel, "streams": number, "texts_per_s": rows / seconds}
                found["batch"].append(result)
                bar.advance(note=kernel)
    found["others_cpus"] = others()
    best = max(found["batch"], key=lambda trial: float(trial["texts_per_s"]))
    timed = [trial for trial in found["single"] if "ms" in trial]
    single = min(timed, key=lambda trial: float(trial["ms"]), default=best)
    if plan.performance == "latency":
        best = {"attention": single["attention"], "streams": 1}
    plan = replace(
        plan,
        attention=best["attention"],
        single_attention=single["attention"],
        lengths=plan.lengths if timed else (),
        streams=best["streams"],
        call_tokens=config.call_tokens or found["call_tokens"][best["attention"]],
    )
    return plan, record | found


def _single(out: Path, plan: Plan, threads: int, singles: Sequence[Any], budget: float) -> dict[str, Any]:
    """Milliseconds of a single text, or why graphs of fixed length cannot be had by these settings."""
    try:
        session = open_plan(out, plan, threads)
    except EngineError as error:
        refuse_lost(error)
        # OpenVINO compiles some graphs with dynamic shapes only, such as ALBERT's with zero points and plain attention.
        return {"failed": error.message}
    return {"ms": _seconds(session, singles, budget) / len(singles) * 1e3}


def affordable(session: OpenvinoSession, batches: Sequence[Any], budget: float) -> int:
    """How many batches can be passed over three times in a time, at least 1.

    Args:
        session: What will run them.
        batches: Batches of like cost; the first is run twice.
        budget: Seconds.
    """
    session.run(batches[0])
    started = time.perf_counter()
    session.run(batches[0])
    return max(1, min(len(batches), int(budget / 3 / max(time.perf_counter() - started, 1e-6))))


def _call_tokens(session: OpenvinoSession, budget: float) -> int:
    """What a call costs beside its tokens, in tokens: ``time = a + b·tokens`` at two shapes in turn gives ``a / b``.

    It is a power of two: half or twice the true cost loses a percent, and so another run mostly decides the same.
    """
    batches = [
        {name: np.full(shape, name != "token_type_ids", dtype=np.int64) for name in INPUTS} for shape in CALL_SHAPES
    ]
    times = [float("inf")] * len(batches)
    _repeat(lambda: _time_each(session, batches, times), budget)
    few, many = (rows * tokens for rows, tokens in CALL_SHAPES)
    slope = (times[1] - times[0]) / (many - few)
    # Times that do not grow with the tokens are noise: then nothing is known, and the default stands.
    if slope <= 0:
        return Plan.call_tokens
    return int(2 ** round(math.log2(min(max(times[0] / slope - few, 1), NEVER_SPLIT))))


def _time_each(session: OpenvinoSession, batches: Sequence[Any], times: list[float]) -> None:
    for index, batch in enumerate(batches):
        started = time.perf_counter()
        session.run(batch)
        times[index] = min(times[index], time.perf_counter() - started)


def _seconds(session: OpenvinoSession, batches: Sequence[Any], budget: float) -> float:
    """The least time of a pass over batches, each a call of its own, after one that is not timed."""
    times: list[float] = []

    def once() -> None:
        started = time.perf_counter()
        for batch in batches:
            session.run(batch)
        times.append(time.perf_counter() - started)

    _repeat(once, budget)
    return min(times[1:])


def _repeat(work: Callable[[], None], budget: float) -> None:
    """Does something twice, and then again until its time is up, or it is well known."""
    ends, done = time.perf_counter() + budget, 0
    while done < 2 or (done < MOST_TIMES and time.perf_counter() < ends):
        work()
        done += 1
