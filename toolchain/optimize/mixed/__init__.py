"""Int8 where it pays: groups of nodes are int8 or float by measured time and dev accuracy on the engine that will run.

Groups are the embeddings, each layer's attention and FFN, and the classifier. Every choice that the search looks at is
quantized, built and run on the engine: its dev accuracy, and its time beside the float engine's in the same rounds. The
result is the fastest choice whose dev accuracy is at most ``max_drop`` points below the float graph's; where none is,
the float graph itself. A search that is interrupted goes on where it was. Wu et al., arXiv 2004.09602, section 5.
"""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from toolchain import kinds
from toolchain.core import registry
from toolchain.core.errors import EngineError, ModelError, RecipeError, refuse_lost
from toolchain.core.hooks import Engine
from toolchain.core.log import logger, progress
from toolchain.core.session import ConcurrentSession, Session
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, StageConfig
from toolchain.engines.shared import timed_on
from toolchain.engines.shared.artifact import read_engine
from toolchain.model import checkpoint, graph, labels, tokens
from toolchain.optimize import static_int8
from toolchain.optimize.mixed.trials import Groups, Journal, OutOfTime, Trial, best, failure, search
from toolchain.optimize.shared import half, int8
from toolchain.optimize.shared.groups import group_nodes
from toolchain.optimize.static_int8.quantization import Quantization

if TYPE_CHECKING:
    from toolchain.core.session import Outputs

VERSION = 3
LIBRARIES = ("onnxruntime", "onnx")
TAKES = ("standard",)
AGREEMENT = 0.98
METHOD = "quantized"

#: It quantizes single precision.
requires = half.refusal

#: Dev sentences of a batch that tells accuracy.
_ROWS = 32

#: Folders of trials.
_PREFIX = "trial-"

#: A runtime's threads spin for some milliseconds after a batch; the other engine waits until they sleep.
_SETTLE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the search, and of the quantization that it switches on and off.

    Attributes:
        engine: The engine that decides, with its default settings.
        quantization: ``static``: as by static_int8; ``dynamic``: as by dynamic_int8, which ONNX Runtime alone runs.
        max_drop: Points of dev accuracy that may be lost.
        deadline: Seconds for all trials, those of an interrupted run included; then the best so far is taken.
        batch_size: Sentences at a time when time is measured; 1 is latency.
        samples: Dev sentences that are timed.
        rounds: Times that each engine goes through them, in turn with the float engine.
        margin: Difference in time, as a share, below which two choices count as equally fast.
        calibration: With static: how an activation's range is chosen.
        calibration_samples: With static: training sentences to read.
        percentile: With calibration percentile: the part of values, in percent, that the range covers.
        symmetric: With static: activations int8 around zero (``qdq``), or uint8 with a zero point (``qdq-asymmetric``).
        per_channel: One weight scale per output channel instead of one per weight.
        embeddings: Embedding tables may be int8 too.
        attention: With static: the two products inside attention may be int8 too, a group of their own in each layer.
        reduce_range: 7-bit weights, for CPUs whose int8 products saturate (AVX2 and AVX-512 without VNNI).
        smooth: With static: how far outliers move from activations (0) into weights (1) before; 0 leaves them.
        correct_biases: With static: take what quantization shifts in the mean of a product out of its bias.
        exclude: Nodes, or weights, that stay in floating point in every trial: names or shell patterns.
    """

    engine: Literal["onnxruntime", "openvino"] = "onnxruntime"
    quantization: Literal["static", "dynamic"] = "static"
    max_drop: Annotated[float, Ge(0), Le(100)] = 0.5
    deadline: Annotated[float, Ge(0), Le(604_800)] = 900.0
    batch_size: Annotated[int, Ge(1), Le(1024)] = 1
    samples: Annotated[int, Ge(1), Le(100_000)] = 64
    rounds: Annotated[int, Ge(3), Le(200)] = 7
    margin: Annotated[float, Ge(0), Le(1)] = 0.01
    calibration: Literal["min_max", "percentile", "entropy"] = "min_max"
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    percentile: Annotated[float, Gt(50), Le(100)] = 99.999
    symmetric: bool = True
    per_channel: bool = True
    embeddings: bool = True
    attention: bool = False
    reduce_range: bool = False
    smooth: Annotated[float, Ge(0), Le(1)] = 0.8
    correct_biases: bool = True
    exclude: tuple[str, ...] = ()

    @property
    def static(self) -> static_int8.Config:
        """The settings of static quantization."""
        return static_int8.Config(
            calibration=self.calibration,
            calibration_samples=self.calibration_samples,
            percentile=self.percentile,
            symmetric=self.symmetric,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            smooth=self.smooth,
            correct_biases=self.correct_biases,
        )


def gives(config: Config, taken: str) -> str:
    """``qdq`` when static and symmetric, ``qdq-asymmetric`` when static and not, ``ort`` when dynamic."""
    if config.quantization == "dynamic":
        return "ort"
    return static_int8.gives(config.static, taken)


def fingerprint(config: Config) -> dict[str, Any]:
    """What the times depend on."""
    return timed_on.fingerprint(config.engine)


def tunes(config: Config) -> bool:
    """Times are those of a number of threads."""
    return True


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Searches, and writes the best graph as ``model.onnx``.

    Args:
        source: Folder with a graph of dialect ``standard``, its tokenizer and interface.
        out: Folder to write.
        config: Settings.
        context: Training sentences to calibrate on, dev sentences to judge by, and a folder that keeps the journal.

    Returns:
        nodes, parameters, int8_weights, float_weights; ``groups``: int8 or float, by group; ``finished``: whether the
        search came to its end; ``trials``, ``search_s``; of the result dev_accuracy and float_dev_accuracy in percent,
        and ``time``, by the float graph's, where it was measured.

    Raises:
        ModelError: The graph is quantized already, or its labels are not the task's.
        EngineError: The engine cannot run the float graph.
        RecipeError: The engine does not take what this quantization gives, or an exclusion matches nothing.
    """
    dialect = gives(config, "standard")
    accepts = registry.get("engines", config.engine).of(Engine).ACCEPTS
    if dialect not in accepts:
        raise RecipeError(
            f"mixed: {config.quantization} quantization gives the dialect {dialect}, and {config.engine} takes "
            f"{', '.join(accepts)}",
            "engine: onnxruntime, or quantization: static",
        )
    context.work.mkdir(parents=True, exist_ok=True)
    _clear(context.work)  # what a run left that was killed
    try:
        bench = _Bench(source, config, context, dialect)
        groups, everything = tuple(bench.groups), frozenset(bench.groups)
        finished = False
        # Each group alone; bisection and the rest may take as many again.
        with progress("mixed", 2 + 2 * len(groups)) as bar:
            journal = Journal(context.work, config.deadline, bench.measure, lambda t: bar.advance(note=_told(t)))
            try:
                search(groups, journal, config.max_drop / 100, config.margin)
                finished = True
            except OutOfTime:
                logger.info("    mixed: the deadline of %.0f s ends the search", config.deadline)
        chosen = best(journal.trials, everything, config.max_drop / 100, config.margin)
        floats = everything if chosen is None else frozenset(chosen.floats)
        bench.write(floats, out / "model.onnx")
    finally:
        _clear(context.work)
    measured: dict[str, Any] = {}
    if chosen is not None:
        accuracies = {"dev_accuracy": chosen.accuracy, "float_dev_accuracy": journal(everything).accuracy}
        measured = {"time": chosen.time, **{name: 100 * value for name, value in accuracies.items()}}
    return {
        **int8.report(graph.load(out / "model.onnx")),
        **measured,
        "groups": {group: "float" if group in floats else "int8" for group in groups},
        "finished": finished,
        "trials": [trial.record() for trial in journal.trials],
        "search_s": journal.seconds,
    }


class _Bench:
    """Quantizes, builds and measures; what several trials need is made once."""

    def __init__(self, source: Path, config: Config, context: Context, dialect: str) -> None:
        self._source, self._config, self._context, self._dialect = source, config, context, dialect
        self._gold = labels.dev_labels(source, context.dataset())
        self._kind = kinds.of_folder(source)
        self._model = int8.replace_gemm(int8.load_float(source / "model.onnx"))
        attention = config.attention and config.quantization == "static"
        self._excluded = int8.excluded_nodes(
            self._model, config.exclude, embeddings=config.embeddings, attention=attention
        )
        kept = set(self._excluded)
        names = {n.name for n in self._model.graph.node if n.op_type in ("MatMul", "Gather")} - kept
        self.groups = group_nodes(self._model, names)
        if not self.groups:
            raise ModelError(f"{source / 'model.onnx'} has no matrix product that may be int8", "take out: exclude")

    def write(self, floats: Groups, target: Path) -> None:
        """Writes the graph in which these groups are float and the others int8."""
        if floats == frozenset(self.groups):
            graph.save(graph.load(self._source / "model.onnx"), target)
            return
        excluded = [*self._excluded, *(node for group in self.groups if group in floats for node in self.groups[group])]
        if self._config.quantization == "static":
            self._static.write(target, excluded)
            return
        copy = type(self._model)()
        copy.CopyFrom(self._model)
        with int8.quantizer_errors(self._source / "model.onnx"):
            int8.quantize_dynamic(
                copy, target, excluded, per_channel=self._config.per_channel, reduce_range=self._config.reduce_range
            )

    def measure(self, floats: Groups) -> Trial:
        """Makes a trial."""
        started = time.monotonic()
        reference, base, size_bytes = self._float
        answers, ratio = base, 1.0
        if floats != frozenset(self.groups):
            with self._folder() as folder:
                try:
                    session, size_bytes = self._built(floats, folder)
                    answers = self._answers(session)
                except (EngineError, ModelError) as caught:
                    refuse_lost(caught)
                    return failure(floats, time.monotonic() - started, caught)
                ratio = self._ratio(session, reference)
        error = float(np.sqrt(np.square(answers - base).mean() / np.square(base).mean()))
        accuracy = self._kind.combine(self._kind.score(answers, self._gold))
        names, seconds = tuple(sorted(floats)), time.monotonic() - started
        return Trial(names, accuracy=accuracy, time=ratio, error=error, size_bytes=size_bytes, seconds=seconds)

    def _built(self, floats: Groups, folder: Path) -> tuple[Session, int]:
        runtime = registry.get("engines", self._config.engine).of(Engine)
        made, engine = folder / "graph", folder / "engine"
        made.mkdir()
        engine.mkdir()
        self.write(floats, made / "model.onnx")
        shutil.copyfile(self._source / "tokenizer.json", made / "tokenizer.json")
        interface = checkpoint.read_json(self._source / "interface.json")
        checkpoint.write_json(made / "interface.json", {**interface, "dialect": self._dialect})
        # Trials are to differ by their graphs alone, and not by what tuning happened to find.
        runtime.build(made, engine, runtime.Config(tune=False), self._within(folder))
        files = read_engine(engine).files
        return runtime.open_session(engine, self._context.threads), sum((engine / f).stat().st_size for f in files)

    @cached_property
    def _float(self) -> tuple[Session, Any, int]:
        """The float engine, its answers to dev, and its bytes."""
        # The folder stays as long as the session, which may open its file again.
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._context.work))
        session, size_bytes = self._built(frozenset(self.groups), folder)
        return session, self._answers(session), size_bytes

    @cached_property
    def _static(self) -> Quantization:
        """Static quantization; what it measures on training texts serves all trials, ranges a run that goes on too."""
        context = self._context
        return Quantization(self._source, self._model, self._excluded, self._config.static, context, context.work)

    @cached_property
    def _dev(self) -> tuple[Sequence[int], Sequence[tokens.Tokens], list[int], list[Mapping[str, Any]]]:
        """The example of each row of dev, the rows, their positions by length, and their batches in that order."""
        rows, owners = self._rows()
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].ids))
        return owners, rows, order, self._batches([rows[index] for index in order], _ROWS)

    @cached_property
    def _timed(self) -> list[Mapping[str, Any]]:
        """The batches that are timed: dev sentences, evenly over all lengths."""
        rows = sorted(self._rows()[0], key=lambda row: -len(row.ids))
        count = min(self._config.samples, len(rows))
        return self._batches([rows[index * len(rows) // count] for index in range(count)], self._config.batch_size)

    def _rows(self) -> tuple[Sequence[tokens.Tokens], Sequence[int]]:
        encoded = tokens.encode(self._source, self._context.dataset().dev.texts)
        return self._kind.rows(encoded, int(checkpoint.read_json(self._source / "interface.json")["max_length"]))

    def _batches(self, encoded: Sequence[Any], size: int) -> list[Mapping[str, Any]]:
        return [tokens.padded(self._source, encoded[start : start + size]) for start in range(0, len(encoded), size)]

    def _answers(self, session: Session) -> Any:
        owners, rows, order, batches = self._dev
        chosen = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
        side = str(checkpoint.read_json(self._source / "interface.json").get("padding_side", tokens.SIDES[0]))
        parts = [
            (part, kinds.from_first_token(self._kind, given, [len(rows[index]) for index in part], side))
            for part, given in zip(chosen, _run(session, batches), strict=True)
        ]
        answers = self._kind.fold(owners, kinds.gathered(self._kind, parts, len(order)), rows)
        if not np.isfinite(answers).all():
            raise EngineError(f"{self._config.engine} gives numbers that are not finite")
        return answers

    def _ratio(self, session: Session, reference: Session) -> float:
        """Time of one engine by the other's, the median of rounds in which they take turns."""
        both = (session, reference)
        for engine in both:
            self._pass(engine)
        ratios = []
        for number in range(self._config.rounds):
            taken = [0.0, 0.0]
            for index in (0, 1) if number % 2 else (1, 0):
                time.sleep(_SETTLE_S)
                taken[index] = self._pass(both[index])
            ratios.append(taken[0] / taken[1])
        return statistics.median(ratios)

    def _pass(self, session: Session) -> float:
        _run(session, self._timed[:1])
        started = time.perf_counter()
        if self._config.batch_size == 1:
            for batch in self._timed:
                session.run(_read_by(session, batch))
        else:
            _run(session, self._timed)
        return time.perf_counter() - started

    def _within(self, folder: Path) -> Context:
        return dataclasses.replace(self._context, work=folder)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._context.work) as name:
            yield Path(name)


def _clear(work: Path) -> None:
    for litter in work.glob(f"{_PREFIX}*"):
        shutil.rmtree(litter)


def _run(session: Session, batches: Sequence[Mapping[str, Any]]) -> list[Outputs]:
    read = [_read_by(session, batch) for batch in batches]
    if isinstance(session, ConcurrentSession):
        return session.run_many(read)
    return [session.run(batch) for batch in read]


def _read_by(session: Session, batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in session.inputs}


def _told(trial: Trial) -> str:
    return trial.failed or f"{len(trial.floats)} groups float: {100 * trial.accuracy:.1f} %, time × {trial.time:.2f}"
