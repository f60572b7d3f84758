"""Evaluates an engine on everything in dev and test, in a process of its own, and keeps every probability."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from toolchain.core.data import Dataset
from toolchain.core.errors import DataError, EngineError, ModelError
from toolchain.core.log import progress
from toolchain.core.stage import Context, Ge, Le, Metrics, StageConfig
from toolchain.engines._artifact import read_engine
from toolchain.measure.process import WorkerProcess, texts_file, write_texts
from toolchain.runtime.interface import read_interface

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
LIBRARIES = ("tokenizers", "numpy")

SPLITS = ("dev", "test")
EVALUATION_FILE = "evaluation.json"

#: How the zstd size is taken: the library's own default level.
ZSTD_LEVEL = 3

#: Names that a model library gives to classes that nobody named; they are taken by position.
_UNNAMED = re.compile(r"LABEL_\d+")


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How an engine is evaluated."""

    #: Examples per batch; a batch holds examples of like length.
    batch_size: Annotated[int, Ge(1), Le(1024)] = 32


def evaluate(engine: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Runs an engine over dev and test.

    Args:
        engine: An engine folder.
        out: Gets ``evaluation.json`` and, for each split, ``probabilities_SPLIT.npy`` ``[examples, labels]``.
        config: How to run it.
        context: The task's data, and threads.

    Returns:
        Accuracy of each split, of 0 to 1, and sizes.

    Raises:
        ModelError: The engine's labels are not the task's, or its folder is damaged.
        DataError: A split is empty, or the engine takes pairs and the task has none, or the reverse.
        EngineError: The engine fails, or gives values that are no probabilities.
    """
    dataset = context.dataset()
    manifest = read_engine(engine)
    names = read_interface(engine).labels
    index, notes = match_labels(names, dataset.labels, engine)
    record: dict[str, Any] = {"splits": {}, "labels": {}, "label_names": list(names), "notes": notes}
    for name in SPLITS:
        record["labels"][name] = _gold(dataset, name, index)
    tokens = 0
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
            tokens += answer["tokens"]
            record["splits"][name] = _score(probabilities, gold, engine)
        record["placement"] = worker.call("placement", scratch=str(context.work.resolve()))["placement"]
    files = [engine / name for name in manifest.files]
    record |= {
        "size_bytes": sum(path.stat().st_size for path in files),
        "zstd_bytes": sum(zstd_bytes(path) for path in files),
        "parameters": manifest.extra.get("parameters"),
        "flops_per_example": manifest.extra.get("flops"),
        "mean_tokens": tokens / total,
    }
    (out / EVALUATION_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    accuracies = {f"accuracy_{name}": record["splits"][name]["accuracy"] for name in SPLITS}
    return {**accuracies, "size_bytes": record["size_bytes"], "zstd_bytes": record["zstd_bytes"]}


def match_labels(model: tuple[str, ...], task: tuple[str, ...], engine: Path) -> tuple[list[int], list[str]]:
    """Finds the model's index of each of the task's labels.

    Args:
        model: Label names in the order of the logits.
        task: Label names in the order of the data set's indices.
        engine: Folder that an error names.

    Returns:
        For each label of the task, its index in the model; and what is worth noting about that.

    Raises:
        ModelError: The two have different labels.
    """
    if model == task:
        return list(range(len(task))), []
    if sorted(model) == sorted(task):
        return [model.index(name) for name in task], [
            f"the model's labels are in another order than the task's: {', '.join(model)}; matched by name"
        ]
    if len(model) == len(task) and all(_UNNAMED.fullmatch(name) for name in model):
        return list(range(len(task))), [
            f"the model's labels have no names ({', '.join(model)}); taken by position as {', '.join(task)}"
        ]
    raise ModelError(
        f"{engine} was trained for the labels {', '.join(model)}; the task has {', '.join(task)}",
        "evaluate it on the task that it was trained for, or name the labels in its interface.json as the task does",
    )


def zstd_bytes(path: Path) -> int:
    """Size of a file compressed by zstd, read as a stream."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(size=path.stat().st_size)
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())


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
