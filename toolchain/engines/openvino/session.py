"""An OpenVINO engine at work: single texts in graphs of fixed length, batches split over streams."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain import kinds
from toolchain.core.errors import EngineError, require
from toolchain.core.session import INPUTS
from toolchain.engines.openvino import ir
from toolchain.engines.openvino.graph import Executed, count_int8, executed
from toolchain.engines.openvino.shapes import Shapes, padded
from toolchain.engines.shared.batching import Batching, plan_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolchain.core.session import Outputs

Batch = Mapping[str, "NDArray[Any]"]

#: The one device that is offered, in OpenVINO's own words.
DEVICE = "CPU"

#: Where placement counts a product that was to run in int8 and ran in floating point.
FELL_BACK = f"{DEVICE}, float for int8"

#: No batch that comes alone has so many tokens that it must be split.
NEVER_FULL = 10**9

#: Requests kept for each stream: one that runs, and one that is ready when it ends.
REQUESTS = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an engine is run: what ``engine.json`` keeps as its options.

    Attributes:
        precision: What float operators compute in.
        performance: ``auto``, ``latency`` or ``throughput``.
        streams: Batches computed at a time; 0 is one per thread.
        attention: ``fused``: OpenVINO's one kernel for batches; ``plain``: products and softmax.
        single_attention: The same for single texts.
        lengths: Lengths of the graphs of fixed length, ascending.
        split: Whether a batch that comes alone is split over the streams.
        call_tokens: What one more part of a batch costs, in tokens of work.
        dynamic_quantization: Group size of activations that are quantized as they come; 0 keeps them float.
        pad_id: Token id that fills a row.
        int8_products: Products with weights that must run in int8; 0 where there are none.
        device: Where every node must run.
    """

    precision: str = "f32"
    performance: str = "auto"
    streams: int = 0
    attention: str = "fused"
    single_attention: str = "fused"
    lengths: tuple[int, ...] = ()
    split: bool = True
    call_tokens: int = 100
    dynamic_quantization: int = 0
    pad_id: int = 0
    int8_products: int = 0
    device: str = DEVICE


def open_plan(folder: Path, plan: Plan, threads: int) -> OpenvinoSession:
    """Loads the IR of an engine folder.

    Args:
        folder: Folder with ``model.xml`` and ``model.bin``.
        plan: How to run it.
        threads: Threads to compute with; 0 leaves it to OpenVINO.

    Raises:
        EngineError: It cannot be loaded, or would compute in another precision than the plan's.
    """
    return OpenvinoSession(folder, plan, threads)


class OpenvinoSession:
    """A loaded engine; one call at a time runs, others wait.

    Args:
        folder: Folder with ``model.xml`` and ``model.bin``.
        plan: How to run it.
        threads: Threads to compute with; 0 leaves it to OpenVINO.

    Attributes:
        inputs: Names of the inputs that it reads.
        concurrency: Batches that it computes at a time; 1 where batches are left whole.
    """

    def __init__(self, folder: Path, plan: Plan, threads: int) -> None:
        self._path, self._plan, self._lock = folder / ir.GRAPH_FILE, plan, threading.Lock()
        ov = require("openvino", "openvino")
        core = ir.core()
        try:
            model = core.read_model(self._path)
        except Exception as error:  # OpenVINO's errors share no public base class
            raise EngineError(
                f"OpenVINO {ov.__version__} cannot load {self._path}: {ir.reason(str(error))}", "build the engine again"
            ) from error
        ir.check_inputs(model, self._path)
        types = {item.get_any_name(): item.get_element_type().to_dtype() for item in model.inputs}
        self.inputs = tuple(name for name in INPUTS if name in types)
        self._types = types
        kind = kinds.of_folder(folder)
        self._outputs = kind.OUTPUTS
        self._per_token = any("tokens" in output.axes for output in kind.OUTPUTS)
        names = [output.name for output in kind.OUTPUTS]
        there = [next((name for name in names if name in item.get_names()), "") for item in model.outputs]
        self._places = tuple(kinds.places(kind, there).values())
        most = threads or int(core.get_property(DEVICE, "RANGE_FOR_STREAMS")[1])
        self._streams = 1 if plan.performance == "latency" else min(plan.streams or most, most)
        self.concurrency = self._streams if plan.split else 1
        self._batching = Batching(call=plan.call_tokens, token_budget=NEVER_FULL)
        self._threads = threads
        self._shapes = Shapes(masked="attention_mask" in self.inputs)
        self._compiled, self._queue = self._batches(core, model)
        # Without a mask, what fills a row up to a fixed length would be read as text.
        padded = "attention_mask" in self.inputs and plan.performance != "throughput"
        lengths = plan.lengths if padded else ()
        self._fixed = {length: self._fixed_length(core, model, length, threads) for length in lengths}

    def run(self, batch: Batch) -> Outputs:
        """Return the outputs of one padded batch."""
        return self.run_many([batch])[0]

    def run_many(self, batches: Sequence[Batch]) -> list[Outputs]:
        """Return the outputs of several padded batches, computed as many at a time as there are streams."""
        with self._lock:
            try:
                return self._run(batches)
            except EngineError:
                raise
            except Exception as error:  # OpenVINO's errors share no public base class
                core = ir.core()
                # A graph that failed on one shape fails on every other one from then on.
                self._compiled, self._queue = self._batches(core, core.read_model(self._path))
                shapes = ", ".join(str(tuple(batch["input_ids"].shape)) for batch in batches[:4])
                raise EngineError(
                    f"OpenVINO failed on {self._path} with a batch of {shapes}: {ir.reason(str(error))}",
                    "a text may be longer than the model's positions: see max_length in interface.json",
                ) from error

    def placement(self) -> dict[str, int]:
        """How many nodes the graph for batches has, apart those int8 products that fell back to floating point in any.

        OpenVINO's CPU plugin computes every node or fails; but it computes a product in floating point, without saying
        so, where it cannot bring Q/DQ pairs and product together.
        """
        nodes = self.executed()
        fixed = [executed(request.get_compiled_model()) for request, _ in self._fixed.values()]
        lost = max(0, self._plan.int8_products - min(map(count_int8, (nodes, *fixed))))
        return {DEVICE: len(nodes) - lost} | ({FELL_BACK: lost} if lost else {})

    def executed(self) -> list[Executed]:
        """The nodes of the graph that computes batches, kernels as they are after a batch."""
        ids = np.ones((3, 7), dtype=np.int64)
        self.run({name: np.zeros_like(ids) if name == "token_type_ids" else ids for name in self.inputs})
        return executed(self._compiled)

    def _batches(self, core: Any, model: Any) -> tuple[Any, Any]:
        """The graph of any shape, compiled, and its queue of requests."""
        compiled = self._compile(core, model, self._threads, self._streams, self._plan.attention)
        queue = require("openvino", "openvino").AsyncInferQueue(compiled, self._streams * REQUESTS)
        queue.set_callback(_keep)
        return compiled, queue

    def _run(self, batches: Sequence[Batch]) -> list[Outputs]:
        answers: list[Any] = [None] * len(batches)
        jobs: list[tuple[int, list[int], dict[str, NDArray[Any]]]] = []
        for index, batch in enumerate(batches):
            lengths = row_lengths(batch)
            length = int(lengths.max(initial=1))
            fixed = next((made for made in self._fixed if made >= length), 0) if len(lengths) == 1 else 0
            if fixed:
                answers[index] = self._run_fixed(fixed, batch, length)
                continue
            alone = len(batches) == 1 and self._plan.split
            parts = plan_batches(lengths.tolist(), len(lengths), self._batching, self._streams) if alone else []
            for rows in parts if len(parts) > 1 else [list(range(len(lengths)))]:
                longest = int(lengths[rows].max(initial=1))
                whole = len(rows) == len(lengths)  # and in the order in which it came
                shape = self._shapes.target(len(rows), longest)
                feed = {}
                for name in self.inputs:
                    values = np.ascontiguousarray((batch[name] if whole else batch[name][rows])[:, :longest])
                    values = padded(values, shape, self._plan.pad_id if name == "input_ids" else 0)
                    feed[name] = values.astype(self._types[name], copy=False)
                jobs.append((index, rows, feed))
        results: list[Any] = [None] * len(jobs)
        # Start the largest first: what is left at the end is small, so that the streams end together.
        order = sorted(range(len(jobs)), key=lambda job: -jobs[job][2]["input_ids"].size)
        try:
            for job in order:
                self._queue.start_async(jobs[job][2], (results, job, self._places), share_inputs=True)
        finally:  # on Ctrl-C too: what runs reads the feeds, which must outlive it
            self._queue.wait_all()
        for (index, rows, _), result in zip(jobs, results, strict=True):
            if answers[index] is None:
                answers[index] = self._empty(batches[index], result)
            self._place(answers[index], rows, result)
        return answers

    def _empty(self, batch: Batch, values: Sequence[NDArray[np.float32]]) -> Outputs:
        """Return arrays for a batch's outputs, whose other axes are those of the outputs of some of its rows."""
        rows, tokens = batch["input_ids"].shape
        empty = {}
        for output, value in zip(self._outputs, values, strict=True):
            if "tokens" in output.axes:  # what stands beyond a row's own tokens is of no use, and zero
                empty[output.name] = np.zeros((rows, tokens, *value.shape[2:]), dtype=np.float32)
            else:
                empty[output.name] = np.empty((rows, *value.shape[1:]), dtype=np.float32)
        return empty

    def _place(self, answer: Outputs, rows: Sequence[int], values: Sequence[NDArray[np.float32]]) -> None:
        """Put the outputs of rows, which may have been computed with more rows and tokens, where they belong."""
        for output, value in zip(self._outputs, values, strict=True):
            given = answer[output.name]
            if "tokens" in output.axes:
                tokens = min(given.shape[1], value.shape[1])
                given[rows, :tokens] = value[: len(rows), :tokens]
            else:
                given[rows] = value[: len(rows)]

    def _run_fixed(self, fixed: int, batch: Batch, length: int) -> Outputs:
        request, tensors = self._fixed[fixed]
        for name, values in tensors.items():
            values[:, :length] = batch[name][:, :length]
            values[:, length:] = self._plan.pad_id if name == "input_ids" else 0
        request.infer()
        copied = _copied(request, self._places)
        if not self._per_token:
            return {output.name: value for output, value in zip(self._outputs, copied, strict=True)}
        answer = self._empty(batch, copied)
        self._place(answer, [0], copied)
        return answer

    def _fixed_length(self, core: Any, model: Any, length: int, threads: int) -> tuple[Any, dict[str, NDArray[Any]]]:
        """A request of one text of a fixed length, and the memory that it reads its inputs from."""
        shaped = model.clone()
        shaped.reshape({item: [1, length] for item in shaped.inputs})
        request = self._compile(core, shaped, threads, 1, self._plan.single_attention).create_infer_request()
        return request, {name: request.get_tensor(name).data for name in self.inputs}

    def _compile(self, core: Any, model: Any, threads: int, streams: int, attention: str) -> Any:
        plan = self._plan
        # No performance hint: OpenVINO would choose streams and threads by it, which are given.
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": plan.precision,
            "NUM_STREAMS": streams,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": plan.dynamic_quantization,
            "SNIPPETS_MODE": "ENABLE" if attention == "fused" else "DISABLE",
        }
        if threads:
            properties["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = core.compile_model(model, DEVICE, properties)
            found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        except Exception as error:  # OpenVINO's errors share no public base class
            raise EngineError(
                f"OpenVINO cannot compile {self._path} for this CPU: {ir.reason(str(error))}",
                f"set attention: {'plain' if attention == 'fused' else 'fused'}, or static_lengths: 0",
            ) from error
        if found != plan.precision:
            raise EngineError(
                f"precision {plan.precision} was asked for, and OpenVINO would compute {self._path} in {found} here",
                f"set precision: {found}; bf16 needs a CPU with AVX512-BF16 or AMX, f16 one with AVX512-FP16",
            )
        return compiled


def _keep(request: Any, kept: tuple[list[Any], int, Sequence[int]]) -> None:
    """Copies an answer out of the request before the request is used again."""
    results, job, places = kept
    results[job] = _copied(request, places)


def _copied(request: Any, places: Sequence[int]) -> list[NDArray[np.float32]]:
    return [np.array(request.get_output_tensor(place).data, dtype=np.float32) for place in places]


def row_lengths(batch: Batch) -> NDArray[np.intp]:
    """Tokens of each row up to the last that is not padding, ``[batch]``, at least 1.

    Args:
        batch: A padded batch; without ``attention_mask``, all of it counts.
    """
    rows, tokens = batch["input_ids"].shape
    if "attention_mask" not in batch or not tokens:
        return np.full(rows, tokens, dtype=np.intp)
    reversed_mask = batch["attention_mask"][:, ::-1] != 0
    lengths = np.where(reversed_mask.any(axis=1), tokens - reversed_mask.argmax(axis=1), 1)
    return lengths.astype(np.intp)
