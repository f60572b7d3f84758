"""Gate 1: a graph labels real text as the graph does that it was made from, at several batch shapes.

Both graphs run in ONNX Runtime with its optimizer off, so that what is compared is what stands in the files. A pass
declares its floor, ``AGREEMENT``: the least share of labels that must agree. At a floor of 1 the logits must agree too,
to ``EXACT_TOLERANCE``. A floor below 1 lets ``ceil((1 - floor) · n)`` of n labels differ; when more do on the first
``SAMPLE`` sentences, all of dev, up to ``MOST``, decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import kinds
from toolchain.core.errors import EngineError, require
from toolchain.core.session import TEXT_INPUT
from toolchain.engines.onnxruntime.session import remedy
from toolchain.measure import gates
from toolchain.runtime.predictor import Predictor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolchain.core.session import Outputs
    from toolchain.kinds.contract import Kind

VERSION = 1

MODEL_FILE = "model.onnx"

#: Sentences that settle a clear case.
SAMPLE = 128

#: The most sentences that settle one in doubt.
MOST = 512

#: Sizes of the batches, over and over; after them, the first sentences once more, padded far, where that can be asked.
BATCH_SIZES = (1, 3, 8, 20)

#: Length that a batch is padded to, to see what padding does; a model of fewer tokens gives its own.
PADDED_TOKENS = 128
PADDED_ROWS = 4

#: Largest |Δlogit| of a pass that claims to change nothing.
EXACT_TOLERANCE = 1e-3

#: A label that the logits decide by less is a toss-up: 0.25 % in probability between two classes. An untrained model
#: has nothing else, a fine-tuned one a sentence in a thousand.
TIE = 1e-2

#: Domain of the operators of onnxruntime-extensions, such as tokenizers; ONNX Runtime names it when it lacks them.
EXTENSIONS = "ai.onnx.contrib"

Texts = Sequence[tuple[str, ...]]


class GraphSession:
    """An ONNX graph as it stands in its file, in ONNX Runtime without optimization.

    Args:
        path: The ONNX file.
        threads: Threads that compute.
        outputs: Values that ``values`` returns, graph outputs all; those of the kind of task by default.

    Attributes:
        inputs: Names of its inputs.

    Raises:
        EngineError: ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path, threads: int, outputs: Sequence[str] = ()) -> None:
        self._session = _open(path, threads)
        types = {item.name: item.type for item in self._session.get_inputs()}
        names = [item.name for item in self._session.get_outputs()]
        self.inputs = tuple(types)
        self._path, self._types = path, types
        self._places = kinds.places(kinds.of_folder(path.parent), names)
        self._outputs = list(outputs) or [names[place] for place in self._places.values()]

    def run(self, batch: Mapping[str, NDArray[Any]]) -> Outputs:
        """Return the outputs of one batch."""
        import numpy as np

        values = zip(self._places, self.values(batch), strict=True)
        return {name: np.asarray(value, dtype=np.float32) for name, value in values}

    def values(self, batch: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Every value that was asked for, of one batch.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        import numpy as np

        narrow = {name for name, kind in self._types.items() if kind == "tensor(int32)"}
        feed = {n: batch[n].astype(np.int32) if n in narrow else batch[n] for n in self.inputs}
        try:
            return list(self._session.run(self._outputs, feed))
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise EngineError(f"ONNX Runtime failed on {self._path}: {error}") from error

    def placement(self) -> dict[str, int]:
        """Not reported: it runs here to be compared, and nowhere else."""
        return {}


class Graph:
    """An ONNX folder that takes texts: its tokenizer, and its graph as it stands.

    Args:
        folder: Folder with ``model.onnx``, ``tokenizer.json`` and ``interface.json``.
        threads: Threads that compute.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._path = folder / MODEL_FILE
        self.session = GraphSession(self._path, threads)
        self.predictor = Predictor(folder, threads, session=self.session)

    @property
    def half(self) -> bool:
        """Whether it holds weights of half precision (float16, bfloat16)."""
        from toolchain.model import graph

        return any(weight.data_type in (10, 16) for weight in graph.load(self._path, weights=False).graph.initializer)

    def logits(self, texts: Texts, pad_to: int = 0) -> NDArray[np.float32]:
        """Logits of one batch of texts, ``[texts, …]``, padded to at least so many tokens."""
        return self.predictor.batch_logits(self.predictor.encode(list(texts)), pad_to)

    def feed(self, texts: Texts, pad_to: int = 0) -> dict[str, NDArray[Any]]:
        """The inputs of one batch."""
        return self.predictor.collate(self.predictor.rows(self.predictor.encode(list(texts)))[0], pad_to)


def compare(reference: Path, candidate: Path, floor: float, texts: Texts, threads: int) -> dict[str, Any]:
    """Compares two ONNX folders on texts.

    Args:
        reference: Folder of the graph that the candidate must agree with.
        candidate: Folder of the graph to judge.
        floor: The least share of labels that must agree; at 1.0 the logits must agree as well.
        texts: Real examples; the first 128 settle a clear case.
        threads: Threads that compute.

    Returns:
        ``passed``, ``floor``, ``examples``, ``flips``, ``ties``, ``agreement``, ``max_difference`` (largest |Δlogit|),
        ``non_finite`` (examples without numbers) and ``shapes``.

    Raises:
        EngineError: ONNX Runtime cannot run one of them.
    """
    graphs = Graph(reference, threads), Graph(candidate, threads)
    found = _compared(graphs, floor, texts[:SAMPLE])
    doubtful = not found["passed"] and floor < 1 and not found["non_finite"] and len(texts) > SAMPLE
    return _compared(graphs, floor, texts[:MOST]) if doubtful else found


def judge(
    kind: Kind, expected: NDArray[np.float32], found: NDArray[np.float32], floor: float, tolerance: float = math.inf
) -> dict[str, Any]:
    """Return the comparison of two sets of answers, ``[examples, …]`` each.

    A flip where both decide by less than ``TIE`` is a toss-up: it is counted, in ``ties`` too, and does not fail.

    Args:
        kind: The kind of task, which says which answers differ.
        expected: What is right; logits, of a classifier.
        found: What is judged.
        floor: The least share of examples that must agree.
        tolerance: The largest difference of a number of an answer that is accepted.
    """
    count = len(expected)
    flips, ties, finite, difference = count, 0, 0, math.inf
    if expected.shape == found.shape:
        numbers = finite_rows(found)
        agreement = kind.agree(expected, found, TIE)
        flips = int((agreement.differs | ~numbers).sum())
        ties = int((agreement.differs & numbers & agreement.undecided).sum())
        finite = int(numbers.sum())
        difference = float(agreement.distance[numbers].max(initial=0)) if finite else math.inf
    allowed = math.ceil(round((1 - floor) * count, 6))  # 1 − 0.98 is a little more than 0.02
    return {
        "passed": finite == count and flips - ties <= allowed and difference <= tolerance,
        "floor": floor,
        "examples": count,
        "flips": flips,
        "ties": ties,
        "agreement": 1 - flips / count,
        "max_difference": difference if math.isfinite(difference) else None,
        "non_finite": count - finite,
    } | words(kind)


def words(kind: Kind) -> dict[str, Any]:
    """Return what evidence calls answers that are not labels, ``{"answers": ["score", "scores"]}``."""
    return {} if kind.WORDS == gates.LABELS else {"answers": list(kind.WORDS)}


def finite_rows(answers: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which examples have numbers throughout their answers, ``[examples]``."""
    import numpy as np

    finite: NDArray[np.bool_] = np.isfinite(answers).all(axis=tuple(range(1, answers.ndim)))
    return finite


def batches_of(count: int) -> Iterator[range]:
    """Positions of the examples of each batch, sizes in turn."""
    start, turn = 0, 0
    while start < count:
        size = BATCH_SIZES[turn % len(BATCH_SIZES)]
        yield range(start, min(start + size, count))
        start, turn = start + size, turn + 1


def _compared(graphs: tuple[Graph, Graph], floor: float, texts: Texts) -> dict[str, Any]:
    import numpy as np

    reference, candidate = graphs
    expected, found, shapes = [], [], set()
    plan = [([texts[i] for i in batch], 0) for batch in batches_of(len(texts))]
    if TEXT_INPUT not in candidate.session.inputs:  # which pads by itself, to its longest text
        plan.append((list(texts[:PADDED_ROWS]), min(PADDED_TOKENS, reference.predictor.interface.max_length)))
    for chosen, pad_to in plan:
        expected.append(reference.logits(chosen, pad_to))
        shapes.add(next(iter(reference.feed(chosen, pad_to).values())).shape)
        # The two may read other inputs: each is fed its own.
        found.append(candidate.logits(chosen, pad_to))
    tolerance = EXACT_TOLERANCE if floor == 1 else math.inf
    alike = all(a.shape == b.shape for a, b in zip(expected, found, strict=True))
    given = kinds.joined(found) if alike else np.empty((0, 0), np.float32)
    result = judge(reference.predictor.kind, kinds.joined(expected), given, floor, tolerance)
    largest = max(shapes, key=lambda shape: math.prod(shape))
    return result | {"shapes": len(shapes), "largest": "x".join(map(str, largest))}


def _open(path: Path, threads: int) -> Any:
    ort = require("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public base class
        if EXTENSIONS not in str(error):
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}", remedy(error)) from error
    extensions = require("onnxruntime_extensions", "text")
    options.register_custom_ops_library(extensions.get_library_path())
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}") from error
