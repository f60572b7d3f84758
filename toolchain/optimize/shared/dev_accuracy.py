"""The metric of a graph on dev, for passes that keep it while they work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from toolchain import kinds
from toolchain.core.errors import require
from toolchain.core.stage import Context
from toolchain.kinds.contract import Kind
from toolchain.model import checkpoint, labels, tokens

#: An example: the inputs of its rows, each ``[rows, tokens]`` int64, its gold answer, and its rows.
Item = tuple[dict[str, Any], Any, Sequence[tokens.Tokens]]


def dev_batches(source: Path, context: Context) -> list[Item]:
    """Return the dev examples, with gold answers as the model counts its labels.

    Args:
        source: Folder with tokenizer and interface.
        context: Gives the examples.

    Raises:
        ModelError: The model has other labels than the task.
    """
    gold, interface = labels.dev_labels(source, context.dataset()), checkpoint.read_json(source / "interface.json")
    encoded = tokens.encode(source, context.dataset().dev.texts)
    rows = [kinds.named(interface).rows([item], int(interface["max_length"]))[0] for item in encoded]
    return [(tokens.padded(source, own), answer, own) for own, answer in zip(rows, gold, strict=True)]


def dev_accuracy(kind: Kind, proto: Any, items: Iterable[Item], threads: int) -> tuple[float, list[float]]:
    """Return the metric of a graph on examples, of 0 to 1, and of each example what it scores, 1 or 0 of a classifier.

    Args:
        kind: The kind of task.
        proto: The ``onnx.ModelProto``.
        items: The examples, as :func:`dev_batches` gives them.
        threads: Threads to compute with.
    """
    ort = require("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    places = kinds.places(kind, [item.name for item in session.get_outputs()])
    answers = []
    known = list(items)
    for inputs, _, rows in known:
        values = session.run(None, inputs)
        outputs = {name: values[place] for name, place in places.items()}
        answers.append(kind.fold([0] * len(values[0]), outputs, rows))
    judged = kind.score(kinds.joined(answers), [gold for _, gold, _ in known])
    return kind.combine(judged), judged[:, 0].tolist()
