"""Evaluates an engine on everything in dev and test, in a process of its own, and keeps every probability.

The same process gives the evidence of three gates: the engine against the graph that it was built from (``parity``),
against itself in other batches (``invariance``), and on processors with fewer instructions (``isa``).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from toolchain import kinds
from toolchain.core.data import CLASSIFICATION, Dataset
from toolchain.core.errors import DataError, EngineError, ModelError
from toolchain.core.log import progress
from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.engines.shared.artifact import EngineFile, read_engine
from toolchain.kinds.contract import Kind
from toolchain.measure import chance, engine_parity, invariance, isa, parity, records
from toolchain.measure.engine_parity import Reference
from toolchain.measure.process import WorkerProcess, texts_file, write_texts
from toolchain.model.labels import match_labels
from toolchain.model.tokens import truncation_note
from toolchain.runtime.interface import read_interface

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 6
LIBRARIES = ("tokenizers", "numpy")

SPLITS = ("dev", "test")
EVALUATION_FILE = "evaluation.json"

#: ONNX Runtime's operators that multiply 8-bit integers.
INTEGER_OPERATORS = (
    "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul",
)  # fmt: skip

#: How the zstd size is taken: the library's own default level.
ZSTD_LEVEL = 3


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How an engine is evaluated."""

    #: Examples per batch; a batch holds examples of like length.
    batch_size: Annotated[int, Ge(1), Le(1024)] = 32
    #: How much of test is run three times to see whether labels depend on the batch or the padding; auto: the sentences
    #: that can flip, the least certain first, until the rest cannot.
    invariance: Literal["auto", "full", "off"] = "auto"
    #: Whether int8 engines are run without VNNI and AVX-512 too, where a switch or an emulator allows it.
    isa: Literal["auto", "off"] = "auto"


def evaluate(engine: Path, out: Path, config: Config, context: Context, reference: Reference | None = None) -> Metrics:
    """Runs an engine over dev and test.

    Args:
        engine: An engine folder.
        out: Gets ``evaluation.json`` and, for each split, ``probabilities_SPLIT.npy``: the activated answers
            ``[examples, …]``, which are probabilities ``[examples, labels]`` of a classifier.
        config: How to run it.
        context: The task's data, and threads.
        reference: The graphs that the engine began as and was built from; None where there is none, such as a
            checkpoint's.

    Returns:
        The metric of each split, sizes, ``gate_seconds`` (what each gate's evidence took), and notes.

    Raises:
        ModelError: The engine's labels are not the task's, or its folder is damaged.
        DataError: A split is empty, or the engine takes pairs and the task has none, or the reverse.
        EngineError: The engine fails, or gives values that are no probabilities.
    """
    dataset = context.dataset()
    manifest, source = read_engine(engine), reference.source if reference else None
    interface = read_interface(engine)
    kind = kinds.get(interface.kind, interface.labels)
    names, cut = interface.labels, dict[str, tuple[int, int]]()
    index, notes = match_labels(names, dataset.labels, engine)
    record: dict[str, Any] = {"splits": {}, "labels": {}, "tokens": {}, "label_names": list(names), "notes": notes}
    record |= {} if interface.kind == CLASSIFICATION else {"kind": interface.kind}
    for name in SPLITS:
        record["labels"][name] = _gold(kind, dataset, name, index)
        if groups := dataset.split(name).groups:
            record.setdefault("groups", {})[name] = list(groups)
    spent, doubts = dict[str, float](), ""
    total = sum(len(gold) for gold in record["labels"].values())
    with (
        texts_file(context.work) as texts,
        WorkerProcess(engine.name, context.threads) as worker,
        progress("evaluate", total) as bar,
    ):
        worker.call("open", folder=str(engine.resolve()), threads=context.threads)
        for name, gold in record["labels"].items():
            probabilities = out.resolve() / f"probabilities_{name}.npy"
            write_texts(texts, dataset.split(name).texts)
            answer = worker.call(
                "predict", bar.advance, texts=str(texts), batch_size=config.batch_size, out=str(probabilities)
            )
            record["tokens"][name] = answer["tokens"]
            cut[name] = answer["cut"], len(gold)
            scores = _scores(kind, probabilities, gold, engine)
            record["splits"][name] = summary(kind, scores)
            record.setdefault("scores", {})[name] = scores.tolist()
            doubts = kind.doubt(scores) if name == "dev" else doubts
        with _clock("parity", spent):
            record["parity"] = engine_parity.measure(worker, manifest, reference, context)
        with _clock("invariance", spent):
            record["invariance"] = _invariance(worker, engine, out, config, context)
        if config.isa == "auto":
            with _clock("isa", spent):
                record["isa"] = isa.measure(worker, engine, manifest, source, context)
        with _clock("placement", spent):
            placed = worker.call("placement", scratch=str(context.work.resolve()))
            record["placement"] = placed["placement"]
            record["int8_products"] = _int8_products(worker, manifest, source, placed["operators"])
    dev = record["splits"]["dev"]
    doubt = chance.note(kind, dev.get("correct", 0), dev["examples"], dataset.labels)
    notes += filter(None, (truncation_note(cut, interface.max_length), doubt, doubts))
    files = [engine / name for name in manifest.files]
    record |= {
        "size_bytes": sum(path.stat().st_size for path in files),
        "zstd_bytes": sum(zstd_bytes(path) for path in files),
        "parameters": manifest.extra.get("parameters"),
        "flops_per_example": manifest.extra.get("flops"),
        "mean_tokens": sum(map(sum, record["tokens"].values())) / total,
    }
    (out / EVALUATION_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    figure = "accuracy" if kind.METRIC.binary else "score"
    figures = {f"{figure}_{name}": record["splits"][name][figure] for name in SPLITS}
    sizes = {"size_bytes": record["size_bytes"], "zstd_bytes": record["zstd_bytes"]}
    return {**figures, **sizes, "gate_seconds": spent, "notes": notes}


def read(folder: Path) -> dict[str, Any]:
    """What ``evaluation.json`` in a folder holds."""
    return records.evaluation(folder / EVALUATION_FILE)


def zstd_bytes(path: Path) -> int:
    """Size of a file compressed by zstd, read as a stream."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(size=path.stat().st_size)
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())


def _invariance(
    worker: WorkerProcess, engine: Path, out: Path, config: Config, context: Context
) -> dict[str, Any] | None:
    """Count label flips over test, where the settings ask for them."""
    if config.invariance == "off":
        return None
    import numpy as np

    interface = read_interface(engine)
    kind = kinds.get(interface.kind, interface.labels)
    margins = kind.margin(np.load(out / "probabilities_test.npy")).astype(np.float64)
    pad_to = min(invariance.PADDED_TOKENS, interface.max_length)
    texts = context.dataset().test.texts
    return invariance.measure(worker, texts, margins, pad_to, context, kind=kind, full=config.invariance == "full")


def _int8_products(
    worker: WorkerProcess, manifest: EngineFile, source: Path | None, operators: Mapping[str, int]
) -> list[int | None] | None:
    """Products of int8 weights: how many ran in integers (None: the engine does not say), and how many there are."""
    precision = manifest.extra.get("precision")
    if precision:
        return list(precision["int8_products"])
    if source is None or isa.is_float(source):
        return None
    there: int = worker.call("products", graph=str(source.resolve()))["products"]
    if not operators:
        return [None, there]
    return [min(sum(operators.get(name, 0) for name in INTEGER_OPERATORS), there), there]


@contextlib.contextmanager
def _clock(gate: str, spent: dict[str, float]) -> Iterator[None]:
    """Adds how long a gate took."""
    started = time.monotonic()
    yield
    spent[gate] = round(time.monotonic() - started, 3)


def summary(kind: Kind, scores: NDArray[np.float64]) -> dict[str, Any]:
    """Return what ``splits`` of an ``evaluation.json`` has of a split.

    Args:
        kind: The kind of task.
        scores: What the metric needs of each example, ``[examples, k]``.

    Returns:
        ``examples``, and the metric: ``correct`` and ``accuracy`` where it counts right examples, else ``score``.
    """
    figure = kind.combine(scores)
    if kind.METRIC.binary:
        return {"examples": len(scores), "correct": int(scores[:, 0].sum()), "accuracy": figure}
    return {"examples": len(scores), "score": figure}


def _gold(kind: Kind, dataset: Dataset, name: str, index: list[int]) -> list[Any]:
    split = dataset.split(name)
    if not len(split):
        raise DataError(f"the task's {name} split is empty", "evaluation needs labelled examples in dev and in test")
    try:
        return kind.reordered(split.labels, index)
    except ModelError as error:
        raise ModelError(f"{name}: {error.message}", error.hint) from error


def _scores(kind: Kind, path: Path, gold: list[Any], engine: Path) -> NDArray[np.float64]:
    import numpy as np

    answers = np.load(path)
    bad = int((~parity.finite_rows(answers)).sum())
    if bad:
        raise EngineError(f"{engine} gives no numbers (NaN or infinite) for {bad} of {len(gold)} examples")
    return kind.score(kind.deactivate(answers), gold)
