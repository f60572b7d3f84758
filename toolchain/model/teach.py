"""What a teacher answers: its logits on the training examples, once, for every student that it ever has.

``answers.safetensors`` holds ``train``, fp32 ``[examples, classes]``, the examples in the data's order and the classes
in the task's, which ``answers.json`` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain import kinds
from toolchain.core.data import CLASSIFICATION, Split
from toolchain.core.errors import require
from toolchain.core.stage import Context, Metrics, StageConfig
from toolchain.model import checkpoint
from toolchain.model.encoded import encode, logits
from toolchain.model.labels import match_labels

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Nothing to set: a teacher reads as much of a text as its checkpoint says."""


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Writes a checkpoint's answers.

    Args:
        source: The teacher's checkpoint folder.
        out: Folder to write.
        config: Nothing.
        context: Threads and data.

    Returns:
        ``train_accuracy`` and ``dev_accuracy`` of the teacher.

    Raises:
        ModelError: The teacher has other labels than the task.
    """
    data = context.dataset()
    train, dev = asked(source, (data.train, data.dev), data.labels, context.threads)
    write(out, train, data.labels)
    kind = kinds.get(data.kind, data.labels)
    return {
        f"{name}_accuracy": kind.combine(kind.score(answers, data.split(name).labels))
        for name, answers in (("train", train), ("dev", dev))
    }


def asked(source: Path, splits: Sequence[Split], labels: tuple[str, ...], threads: int) -> list[NDArray[np.float32]]:
    """A checkpoint's logits on splits, each ``[examples, classes]``, the classes in the order of these labels.

    Args:
        source: Checkpoint folder.
        splits: Texts; their labels are not read.
        labels: The task's class names.
        threads: Threads to compute with.

    Raises:
        ModelError: It has other labels.
    """
    interface = checkpoint.read_json(source / "interface.json")
    index, _ = match_labels(tuple(interface["labels"]), labels, source)
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    names = checkpoint.model_inputs(model, tokenizer)
    kind = str(interface.get("kind", CLASSIFICATION))
    longest = int(interface["max_length"])
    read = (encode(tokenizer, replace(split, kind=kind), longest, names) for split in splits)
    return [kinds.get(kind).relabelled(logits(model, encoded, threads), index) for encoded in read]


def write(folder: Path, train: NDArray[np.float32], labels: Sequence[str]) -> None:
    """Writes answers, ``[examples, classes]``, and the names of the classes."""
    arrays = {"train": np.ascontiguousarray(train)}
    require("safetensors.numpy", "torch").save_file(arrays, folder / "answers.safetensors")
    checkpoint.write_json(folder / "answers.json", {"labels": list(labels)})


def read(folder: Path) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Answers that :func:`write` has written: ``[examples, classes]``, and the names of the classes."""
    labels = checkpoint.read_json(folder / "answers.json")["labels"]
    return require("safetensors.numpy", "torch").load_file(folder / "answers.safetensors")["train"], tuple(labels)
