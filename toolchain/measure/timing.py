"""Times a set of engines together: one process each, in interleaved, shuffled rounds, one of them active at a time.

Every engine reads the same texts, a fixed random sample of the task's test split. A setting is a batch size, an order
of the texts and where the clock starts (at the batches, or at raw text). ``sorted`` hands over all texts at once, which
are batched by length; ``data_order`` hands over as many as a batch has, as they come, and what is measured is what
ships: the predictor splits each such request by length; ``padded`` pads each of them to its longest. Every round
gives each engine a slice of every setting, the engines one after another in that round's order, so that a machine that
drifts drifts for all.

Rounds go on until they settle the ratio of every two engines in every setting that a ratio is reported of: until its
95 % interval reaches no further than ``settled`` to either side (a sequential interval of fixed width: Chow and
Robbins, "On the asymptotic theory of fixed-width sequential confidence intervals for the mean", Annals of Mathematical
Statistics 36, 1965). They end with the budget at the latest, ``seconds`` for each engine and setting, or after
``MOST_TIMES`` as many rounds as the least. A setting that is settled is left out of the rounds that follow.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from toolchain.core.artifact import copied
from toolchain.core.errors import DataError, EngineError, ToolchainError, refuse_lost
from toolchain.core.log import logger, progress
from toolchain.core.processors import physical_cores
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, MinLen, StageConfig
from toolchain.engines.shared import contention
from toolchain.measure.machine import machine
from toolchain.measure.process import WorkerProcess, texts_file, write_texts
from toolchain.measure.rounds import Order, Setting, by_length, joules, result, round_values, settled

VERSION = 5
LIBRARIES = ("tokenizers", "numpy")

TIMING_FILE = "timing.json"

#: How long batches of mixed shapes are run before memory is read, or as long as the budget where that is less.
MIXED_SECONDS = 1.0

#: Compute threads of a runtime go on spinning for some milliseconds after their last batch; the next engine waits.
SETTLE_S = 0.05

#: The fewest texts of a pass, in batches, however slow the slowest engine is.
LEAST_BATCHES = {1: 32}
LEAST_BATCHES_ELSE = 2

#: Rounds are at most so many times the least; the least number takes that part of the budget.
MOST_TIMES = 3

#: The least rounds of the settings that no ratio is reported of; they have half of the others' rounds, or these.
FIGURE_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """What is timed, and for how long."""

    #: Examples per call; batch 1 is always timed.
    batch_sizes: Annotated[tuple[Annotated[int, Ge(1), Le(1024)], ...], MinLen(1)] = (1, 32)
    #: Threads that compute a batch, the same for all engines; 0 is every physical core that affinity and the CPU quota
    #: allow.
    threads: Annotated[int, Ge(0), Le(1024)] = 0
    #: The budget: the most seconds per engine and setting, over all rounds. A slice of a round is a third of seconds /
    #: rounds, or one pass over the fewest texts where that takes longer.
    seconds: Annotated[float, Gt(0), Le(3600)] = 10.0
    #: The least number of rounds; each gives one value of every engine and setting. They go on, up to three times as
    #: many, until the ratios are settled or the budget is spent.
    rounds: Annotated[int, Ge(3), Le(200)] = 7
    #: How far the 95 % interval of the ratio of two engines may reach to either side of it, as a share of the ratio.
    settled: Annotated[float, Gt(0), Le(1)] = 0.05
    #: The most test texts that are timed; fewer where the slowest engine would not get through them in a slice.
    sample: Annotated[int, Ge(1), Le(100_000)] = 512
    #: Untimed calls per engine and batch size before the first round.
    warmup: Annotated[int, Ge(1), Le(1000)] = 8

    @property
    def slice_s(self) -> float:
        """Seconds that an engine is given for a setting in a round."""
        return self.seconds / self.rounds / MOST_TIMES


@dataclass
class _Engine:
    """An engine's process and what was measured of it so far."""

    key: str
    folder: Path
    process: WorkerProcess
    opened: dict[str, Any] = field(default_factory=dict)
    speeds: dict[int, float] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    slices: dict[Setting, list[dict[str, Any]]] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    has_energy: bool = False
    error: str = ""

    @functools.cached_property
    def label(self) -> str:
        """What a person calls the engine: as its manifest has it, or its folder's name."""
        artifact = copied(self.folder)
        return str(artifact.manifest.get("label") or self.folder.name) if artifact else self.folder.name


def time_engines(engines: Mapping[str, Path], out: Path, config: Config, context: Context) -> Metrics:
    """Time engines against each other.

    Args:
        engines: Engine folders, by key.
        out: Gets ``timing.json``.
        config: What is timed, and for how long.
        context: The task's data, and the seed of the sample and of the order of the engines.

    Returns:
        Wall time, which engines failed, the number of rounds, and the settings in which they have not settled every
        ratio.

    Raises:
        DataError: The task has no test texts.
        EngineError: Every engine failed. One that fails beside others gets ``{"error": …}`` in ``timing.json``.
        LostProcessError: The process of one was killed, crashed, hangs, or ran out of memory: that is no result.
    """
    started = time.monotonic()
    test = context.dataset().test
    if not len(test):
        raise DataError("the task's test split is empty", "timing needs its texts; labels are not read")
    random_order = random.Random(context.seed)
    texts = [test.texts[i] for i in random_order.sample(range(len(test)), min(config.sample, len(test)))]
    threads = config.threads or physical_cores()
    settings = settings_of(config)
    others = contention.watch()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(texts_file(context.work))
        write_texts(file, texts)
        running = [
            _Engine(key, path, stack.enter_context(WorkerProcess(path.name, threads))) for key, path in engines.items()
        ]
        with progress("open", len(running)) as opening:  # slower than a round: apart, so as not to mislead what is left
            for engine in running:
                with _failing_alone(engine):
                    _prepare(engine, file, threads, config)
                opening.advance(note=engine.label)
        bar = stack.enter_context(progress("time", len(running) * sum(_rounds(s, config) for s in settings)))
        counts = sample_sizes([e.speeds for e in running if not e.error], config, len(texts))
        order: list[list[int]] = []
        spent = dict.fromkeys(settings, 0.0)
        left = settings
        while left:
            bar.expect(len(running) * sum(len(order) >= _rounds(setting, config) for setting in left))
            order.append(random_order.sample(range(len(running)), len(running)))
            for visit in _visits(left):
                for engine in (running[index] for index in order[-1]):
                    before = time.monotonic()
                    if not engine.error:
                        with _failing_alone(engine):
                            _measure(engine, visit, counts[visit[0].batch_size], config)
                    for setting in visit:
                        spent[setting] += (time.monotonic() - before) / len(visit)
                    bar.advance(len(visit), engine.label)
            left = _unfinished(left, running, len(order), spent, config)
        most = max(config.batch_sizes)
        for engine in (e for e in running if not e.error):
            with _failing_alone(engine):
                answer = engine.process.call("memory", rows=most, seconds=min(MIXED_SECONDS, config.seconds))
                engine.peak_memory_bytes = answer["peak_memory_bytes"]
    others_cpus = others()  # the workers have ended: their time is known as ours
    failed = [engine for engine in running if engine.error]
    if failed and len(failed) == len(running):
        raise EngineError(f"no engine could be timed; the first of {len(failed)}: {failed[0].error}")
    summaries = {engine.key: _summary(engine, settings) for engine in running}
    record = {
        "machine": machine(),
        "threads": threads,
        "sample": len(texts),
        "samples": {str(size): count for size, count in counts.items()},
        "rounds": len(order),
        "warmup": config.warmup,
        "seconds": config.seconds,
        "settled": config.settled,
        "seed": context.seed,
        "keys": list(engines),
        "order": order,
        "engines": summaries,
    }
    (out / TIMING_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return {
        "engines": len(running),
        "failed": {engine.key: engine.error for engine in failed},
        "rounds": len(order),
        "open": [".".join(s.path) for s in settings if s.compared and not _settled(s, running, config.settled)],
        "wall_s": time.monotonic() - started,
        "others_cpus": others_cpus,
    }


def settings_of(config: Config) -> list[Setting]:
    """Everything that is timed of one engine: two settings at batch 1, five at every other batch size.

    Padded batches are timed for the engine alone: what is done before them is the same as in data order.
    """
    settings = [Setting(1, "padded", tokenize) for tokenize in (False, True)]
    orders: tuple[Order, ...] = ("data_order", "sorted")
    for size in sorted(set(config.batch_sizes) - {1}):
        settings += [Setting(size, order, tokenize) for order in orders for tokenize in (False, True)]
        settings.append(Setting(size, "padded", False))
    return settings


def sample_sizes(speeds: Sequence[Mapping[int, float]], config: Config, available: int) -> dict[int, int]:
    """Return how many texts a pass has at each batch size: what the slowest engine gets through in a slice.

    Args:
        speeds: For each engine, seconds per example by batch size.
        config: What is timed.
        available: Texts in the sample.
    """
    counts = {}
    for size in sorted({1, *config.batch_sizes}):
        slowest = max((engine[size] for engine in speeds), default=0.0)
        fits = int(config.slice_s / slowest) if slowest else available
        least = size * LEAST_BATCHES.get(size, LEAST_BATCHES_ELSE)
        # Whole batches, so that no engine is judged by a small rest.
        counts[size] = min(max(fits // size * size, least), available)
    return counts


@contextlib.contextmanager
def _failing_alone(engine: _Engine) -> Iterator[None]:
    """Lets the other engines go on where one fails; a process that was lost says nothing of its engine, and ends all.

    Raises:
        LostProcessError: Its process was killed, crashed, hangs, or ran out of memory.
    """
    try:
        yield
    except ToolchainError as error:
        refuse_lost(error)
        engine.error = str(error)
        engine.process.close(at_once=True)
        logger.warning("    %s cannot be timed: %s", engine.folder.name, error.message)


def _visits(settings: Sequence[Setting]) -> list[tuple[Setting, ...]]:
    """Return settings grouped by batch size and order: an engine is warmed up once for both clocks."""
    grouped = itertools.groupby(settings, key=lambda setting: (setting.batch_size, setting.order))
    return [tuple(group) for _, group in grouped]


def _rounds(setting: Setting, config: Config) -> int:
    """Return the least number of rounds that a setting is timed in."""
    return config.rounds if setting.compared else min(config.rounds, max(FIGURE_ROUNDS, config.rounds // 2))


def _unfinished(
    settings: Sequence[Setting], engines: Sequence[_Engine], rounds: int, spent: Mapping[Setting, float], config: Config
) -> list[Setting]:
    """Return the settings that another round is needed for.

    Args:
        settings: Those of the round before.
        engines: All engines.
        rounds: How many rounds there were.
        spent: Seconds that each setting has taken, of all engines together.
        config: The least number of rounds, and the budget.
    """
    if all(engine.error for engine in engines):
        return []
    budget = config.seconds * len(engines)
    return [
        setting
        for setting in settings
        if rounds < _rounds(setting, config)
        or (
            setting.compared
            and rounds < MOST_TIMES * config.rounds
            and spent[setting] < budget
            and not _settled(setting, engines, config.settled)
        )
    ]


def _settled(setting: Setting, engines: Sequence[_Engine], bound: float) -> bool:
    """Return whether the rounds so far settle the ratio of every two engines in a setting."""
    rounds = [round_values(setting, engine.slices[setting]) for engine in engines if not engine.error]
    return settled(rounds, bound)


def _prepare(engine: _Engine, texts: Path, threads: int, config: Config) -> None:
    engine.opened = engine.process.call("open", folder=str(engine.folder.resolve()), threads=threads)
    sample = engine.process.call("sample", texts=str(texts))
    engine.has_energy, engine.tokens = bool(sample["energy_sources"]), sample["tokens"]
    for size in sorted({1, *config.batch_sizes}):
        answer = engine.process.call("probe", batch_size=size, calls=config.warmup, seconds=config.slice_s)
        engine.speeds[size] = answer["seconds_per_example"]


def _measure(engine: _Engine, visit: Sequence[Setting], count: int, config: Config) -> None:
    time.sleep(SETTLE_S)
    answer = engine.process.call(
        "measure",
        batch_size=visit[0].batch_size,
        order=visit[0].order,
        clocks=[setting.tokenize for setting in visit],
        count=count,
        seconds=config.slice_s,
    )
    for setting, taken in zip(visit, answer["slices"], strict=True):
        engine.slices.setdefault(setting, []).append(taken | {"texts": count})


def _summary(engine: _Engine, settings: Sequence[Setting]) -> dict[str, Any]:
    if engine.error:
        return {"error": engine.error}
    results: dict[str, Any] = {}
    energy: dict[str, Any] = {}
    for setting in settings:
        figures = result(setting, engine.slices[setting])
        if setting == Setting(1, "padded", tokenize=False):
            figures["lengths"] = by_length(engine.slices[setting], engine.tokens)
        _put(results, setting.path, figures)
        _put(energy, setting.path, joules(engine.slices[setting]))
    times = {name: engine.opened[name] for name in ("import_s", "load_s", "first_s")}
    memory = {"peak_memory_bytes": engine.peak_memory_bytes, "energy_j": energy if engine.has_energy else None}
    return {**times, **memory, "settings": results}


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
