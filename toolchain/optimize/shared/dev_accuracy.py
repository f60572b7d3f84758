"""Dev accuracy of a graph, for passes that keep it while they work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolchain.core.errors import require
from toolchain.core.stage import Context
from toolchain.model import labels, tokens


def dev_batches(source: Path, context: Context) -> list[tuple[dict[str, Any], int]]:
    """Dev sentences, each as inputs ``[1, tokens]`` int64 and its label, as the index of the logits.

    Args:
        source: Folder with tokenizer and interface.
        context: Gives the sentences.

    Raises:
        ModelError: The model has other labels than the task.
    """
    gold = labels.dev_labels(source, context.dataset())
    encoded = tokens.encode(source, context.dataset().dev.texts)
    return [(tokens.padded(source, [item]), label) for item, label in zip(encoded, gold, strict=True)]


def dev_accuracy(proto: Any, items: Iterable[tuple[dict[str, Any], int]], threads: int) -> tuple[float, list[float]]:
    """The share of sentences that a graph labels rightly, and for each 1 or 0.

    Args:
        proto: The ``onnx.ModelProto``.
        items: Inputs ``[1, tokens]`` and label of each sentence.
        threads: Threads to compute with.
    """
    ort = require("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    right = [float(session.run(None, inputs)[0][0].argmax() == label) for inputs, label in items]
    return sum(right) / len(right), right
