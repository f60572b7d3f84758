"""What a graph computes, seen by running it: the shape and type of every value, the work of its matrix products.

Shapes that a graph states are incomplete or absent, depending on who exported it; ONNX Runtime knows all of them while
it runs. Running at several shapes tells which dimensions are the batch, the tokens, or neither.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.core.errors import ModelError, first_line, require
from toolchain.core.stage import Context
from toolchain.model import graph, tokens

#: Rows and tokens of the runs that tell dimensions apart; the last is one example, of the task's mean length.
ROWS = (3, 2, 1)
TOKENS = (7, 11)


@dataclass(frozen=True)
class Observed:
    """Shapes of a graph's values over the runs.

    Attributes:
        shapes: By value, for each dimension its size in every run.
        floats: Values that hold floating-point numbers.
        tokens: Size of a dimension that counts tokens, in every run.
    """

    shapes: Mapping[str, tuple[tuple[int, ...], ...]]
    floats: frozenset[str]
    tokens: tuple[int, ...]

    def example(self, name: str) -> tuple[int, ...]:
        """Shape of a value for one example of the task's mean length."""
        return tuple(dimension[-1] for dimension in self.shapes[name])


def observe(model: Any, path: Path, mean_tokens: int, context: Context) -> Observed:
    """Runs a graph at three shapes.

    Args:
        model: The graph, of dialect ``standard``.
        path: What to call it in an error.
        mean_tokens: Length of the last run.
        context: Threads, and a folder for temporary files.

    Raises:
        ModelError: ONNX Runtime cannot run it at these shapes, for example because its shapes are fixed.
    """
    tokens = (*TOKENS, mean_tokens)
    runs: list[dict[str, Any]] = []
    with every_value(model, path, context) as values:
        for rows, length in zip(ROWS, tokens, strict=True):
            # Few distinct small ids: every vocabulary has them, and no position is padding (ids 0 to 3 may be special).
            ids = np.arange(rows * length, dtype=np.int64).reshape(rows, length) % 5 + 4
            runs.append(values.run({"input_ids": ids, "attention_mask": np.ones_like(ids)}))
    constants = {t.name: tuple((d,) * len(ROWS) for d in t.dims) for t in model.graph.initializer}
    shapes = {name: tuple(zip(*(run[name].shape for run in runs), strict=True)) for name in runs[0]}
    floats = {name for name, value in runs[0].items() if value.dtype.kind == "f"}
    floats |= {t.name for t in model.graph.initializer if t.data_type in (1, 10, 11, 16)}  # float, half, double, bfloat
    return Observed(constants | shapes, frozenset(floats), tokens)


class Values:
    """A session that gives every value of a graph."""

    def __init__(self, session: Any, path: Path) -> None:
        self._session, self._path = session, path
        self._inputs = {item.name: item.type for item in session.get_inputs()}
        self._outputs = [item.name for item in session.get_outputs()]

    def run(self, batch: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
        """Every value, or the named ones, for a batch.

        Args:
            batch: Arrays ``[batch, tokens]`` by input; what is missing is zeros.
            names: Values to give.

        Raises:
            ModelError: ONNX Runtime cannot run the graph on this batch.
        """
        like = batch["input_ids"]
        feed = {
            name: batch.get(name, np.zeros_like(like)).astype(np.int32 if "int32" in kind else np.int64)
            for name, kind in self._inputs.items()
        }
        wanted = self._outputs if names is None else list(names)
        try:
            found = self._session.run(wanted, feed)
        except Exception as error:  # ONNX Runtime raises classes of its own, which share no base but this
            raise ModelError(
                f"{self._path}: ONNX Runtime cannot run it on {like.shape[0]} texts of {like.shape[1]} tokens: "
                f"{first_line(error)}",
                "its batch and token dimensions must be dynamic: export it again",
            ) from error
        return {**feed, **dict(zip(wanted, found, strict=True))}


@contextmanager
def every_value(model: Any, path: Path, context: Context, names: Collection[str] | None = None) -> Iterator[Values]:
    """Opens a session that gives every value of a graph, without any optimization.

    Args:
        model: The graph; it is not changed.
        path: What to call it in an error.
        context: Threads, and a folder for temporary files.
        names: Values to give, where not every one: the others' memory is used again while it runs.

    Raises:
        ModelError: ONNX Runtime cannot load the graph.
    """
    onnx, ort = require("onnx", "torch"), require("onnxruntime", "cpu")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    known = {output.name for output in copy.graph.output}
    for node in copy.graph.node:
        copy.graph.output.extend(
            onnx.ValueInfoProto(name=n) for n in node.output if n and n not in known and (names is None or n in names)
        )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = context.threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    with tempfile.TemporaryDirectory(dir=context.work) as folder:
        graph.save(copy, Path(folder) / "model.onnx")
        del copy
        try:
            session = ort.InferenceSession(
                str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # as above
            raise ModelError(f"{path}: ONNX Runtime cannot load the graph: {first_line(error)}") from error
        yield Values(session, path)


def operations(model: Any, observed: Observed) -> int:
    """Floating-point operations of the matrix products for one example: 2·M·N·K each, as PyTorch's counter counts."""
    total = 0
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        left = observed.example(node.input[0])
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        total += 2 * math.prod(observed.example(node.output[0])) * (left[0] if transposed else left[-1])
    return total


def mean_tokens(source: Path, context: Context) -> int:
    """Mean length of the task's dev examples, in whole tokens; FLOPs are given for an example of this length."""
    lengths = [len(item.ids) for item in tokens.encode(source, context.dataset().dev.texts)]
    return round(sum(lengths) / len(lengths))
