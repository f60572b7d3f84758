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

from toolchain.core.data import Dataset
from toolchain.core.errors import DataError, EngineError, ModelError
from toolchain.core.log import progress
from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.engines.shared.artifact import EngineFile, read_engine
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
        out: Gets ``evaluation.json`` and, for each split, ``probabilities_SPLIT.npy`` ``[examples, labels]``.
        config: How to run it.
        context: The task's data, and threads.
        reference: The graphs that the engine began as and was built from; None where there is none, such as a
            checkpoint's.

    Returns:
        Accuracy of each split, of 0 to 1, sizes, ``gate_seconds`` (what each gate's evidence took), and notes.

    Raises:
        ModelError: The engine's labels are not the task's, or its folder is damaged.
        DataError: A split is empty, or the engine takes pairs and the task has none, or the reverse.
        EngineError: The engine fails, or gives values that are no probabilities.
    """
    dataset = context.dataset()
    manifest, source = read_engine(engine), reference.source if reference else None
    interface = read_interface(engine)
    names, cut = interface.labels, dict[str, tuple[int, int]]()
    index, notes = match_labels(names, dataset.labels, engine)
    record: dict[str, Any] = {"splits": {}, "labels": {}, "tokens": {}, "label_names": list(names), "notes": notes}
    for name in SPLITS:
        record["labels"][name] = _gold(dataset, name, index)
        if groups := dataset.split(name).groups:
            record.setdefault("groups", {})[name] = list(groups)
    spent = dict[str, float]()
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
            record["splits"][name] = _score(probabilities, gold, engine)
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
    notes += filter(None, (
        truncation_note(cut, interface.max_length), chance.note(dev["correct"], dev["examples"], dataset.labels)
    ))  # fmt: skip
    files = [engine / name for name in manifest.files]
    record |= {
        "size_bytes": sum(path.stat().st_size for path in files),
        "zstd_bytes": sum(zstd_bytes(path) for path in files),
        "parameters": manifest.extra.get("parameters"),
        "flops_per_example": manifest.extra.get("flops"),
        "mean_tokens": sum(map(sum, record["tokens"].values())) / total,
    }
    (out / EVALUATION_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    accuracies = {f"accuracy_{name}": record["splits"][name]["accuracy"] for name in SPLITS}
    sizes = {"size_bytes": record["size_bytes"], "zstd_bytes": record["zstd_bytes"]}
    return {**accuracies, **sizes, "gate_seconds": spent, "notes": notes}


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

    with np.errstate(divide="ignore"):  # a probability of 0 is decided by an infinite lead
        margins = parity.margin(np.log(np.load(out / "probabilities_test.npy"))).astype(np.float64)
    pad_to = min(invariance.PADDED_TOKENS, read_interface(engine).max_length)
    texts = context.dataset().test.texts
    return invariance.measure(worker, texts, margins, pad_to, context, full=config.invariance == "full")


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


def _gold(dataset: Dataset, name: str, index: list[int]) -> list[int]:
    split = dataset.split(name)
    if not len(split):
        raise DataError(f"the task's {name} split is empty", "evaluation needs labelled examples in dev and in test")
    unknown = sorted({label for label in split.labels if not 0 <= label < len(index)})
    if unknown:
        raise ModelError(f"{name} has the labels {unknown}; the model knows 0 to {len(index) - 1}")
    return [index[label] for label in split.labels]


def _score(path: Path, gold: list[int], engine: Path) -> dict[str, Any]:
    import numpy as np

    probabilities: NDArray[np.float32] = np.load(path)
    bad = int((~np.isfinite(probabilities).all(axis=1)).sum())
    if bad:
        raise EngineError(f"{engine} gives no numbers (NaN or infinite) for {bad} of {len(gold)} examples")
    correct = int((probabilities.argmax(axis=1) == np.asarray(gold)).sum())
    return {"examples": len(gold), "correct": correct, "accuracy": correct / len(gold)}
