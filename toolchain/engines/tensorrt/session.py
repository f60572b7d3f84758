"""A TensorRT plan at work: checked before it is loaded, fed from pinned memory, copies beside computing."""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain import kinds
from toolchain.core import documents
from toolchain.core.errors import EngineError
from toolchain.core.session import INPUTS
from toolchain.engines.shared.artifact import ENGINE_FILE, EngineFile, read_engine, stored_digest
from toolchain.engines.shared.cudart import Cuda
from toolchain.engines.shared.profiles import Profile
from toolchain.engines.shared.tensorrt_errors import explained
from toolchain.engines.tensorrt import builder
from toolchain.kinds.contract import Output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolchain.core.session import Outputs

Batch = Mapping[str, "NDArray[Any]"]

PLAN_FILE = "model.plan"

#: Where placement counts a plan's layers.
DEVICE = "GPU"

#: Batches that are under way at a time: one computes while the other's copies run.
LANES = 2

#: Shapes of each lane that are recorded as CUDA graphs; further ones run without.
MOST_GRAPHS = 64


@dataclass(frozen=True)
class Opening:
    """How a plan is run: what ``engine.json`` keeps as its options, and the padding token."""

    profiles: tuple[Profile, ...]
    device_id: int
    cuda_graph: bool
    graph_rows: int
    graph_tokens: int
    pad_id: int


def open_plan(folder: Path) -> TensorrtSession:
    """Loads the plan of an engine folder.

    Raises:
        EngineError: The plan is not the one that was built, there is no driver, or the plan is for other GPUs or
            another version of the library.
        MissingPackageError: The library is not installed.
    """
    manifest = read_engine(folder)
    plan = checked_plan(folder, manifest)
    options = manifest.options
    try:
        opening = Opening(
            profiles=tuple(Profile(tuple(p["rows"]), tuple(p["tokens"])) for p in options["profiles"]),
            device_id=int(options["device_id"]),
            cuda_graph=bool(options["cuda_graph"]),
            graph_rows=int(options["graph_rows"]),
            graph_tokens=int(options["graph_tokens"]),
            pad_id=_pad_id(folder),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unknown(folder, options) from error
    trt, cuda = usable(folder, manifest)
    return TensorrtSession(folder / PLAN_FILE, plan, trt, cuda, opening)


def usable(folder: Path, manifest: EngineFile) -> tuple[Any, Cuda]:
    """The library and the device of a plan.

    Raises:
        EngineError: There is no driver, or the plan is for other GPUs or another version of the library.
        MissingPackageError: The library is not installed.
    """
    options = manifest.options
    try:
        library, version = options["library"]["name"], options["library"]["version"]
        capabilities = [int(number) for number in options["compute_capabilities"]]
        portable = options["hardware_compatible"] == "ampere_plus"
        device_id, compatible = int(options["device_id"]), bool(options["version_compatible"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unknown(folder, options) from error
    if library not in builder.DISTRIBUTIONS:
        raise EngineError(f"{folder} was built by {library!r}; known are {', '.join(builder.DISTRIBUTIONS)}")
    cuda = Cuda(device_id)
    trt = builder.load(library)
    if str(trt.__version__) != version and not compatible:
        raise EngineError(
            f"{folder} was built by {library} {version}, and {trt.__version__} is installed; a plan runs with its own",
            f"build the engine again, or pip install {builder.DISTRIBUTIONS[library]}=={version}",
        )
    here = cuda.compute_capability
    if capabilities and here not in capabilities and not (portable and here >= 80):
        raise EngineError(
            f"{folder} was built for compute capability {', '.join(map(str, capabilities))}, and GPU "
            f"{device_id} has {here}",
            f"add {here} to compute_capabilities where the library offers it, or build the engine on this machine",
        )
    return trt, cuda


def checked_plan(folder: Path, manifest: EngineFile) -> bytes:
    """The bytes of a plan, where they are those that were built; a plan is code.

    The digest is the one in ``engine.json``, and the store's ``manifest.json``, where there is one, must name it too.

    Raises:
        EngineError: They are others, or no digest is known.
    """
    path = folder / PLAN_FILE
    recorded = manifest.extra.get("plan")
    expected = recorded.get("sha256") if isinstance(recorded, dict) else None
    if manifest.engine != "tensorrt" or not isinstance(expected, str):
        raise EngineError(
            f"{folder / ENGINE_FILE} holds no digest of {PLAN_FILE}: a plan is code, and is loaded only where it is "
            "known to be ours",
            "build the engine again",
        )
    plan = path.read_bytes()
    found = hashlib.sha256(plan).hexdigest()
    stored = stored_digest(folder, PLAN_FILE)
    if found != expected or stored not in (None, found):
        raise EngineError(
            f"{path} is not the plan that was built: its SHA-256 is {found[:16]}…, and "
            f"{(expected if found != expected else str(stored))[:16]}… is recorded; it is not loaded",
            "build the engine again, or copy the folder again from where it was built",
        )
    return plan


def _unknown(folder: Path, options: Mapping[str, Any]) -> EngineError:
    return EngineError(
        f"{folder} has options that this version does not know: {dict(options)}", "build the engine again"
    )


def _pad_id(folder: Path) -> int:
    path = folder / "interface.json"
    return int(documents.read_object(path, EngineError).get("pad_id", 0)) if path.is_file() else 0


class TensorrtSession:
    """A loaded plan.

    Args:
        path: The plan's file, for errors.
        plan: Its bytes.
        trt: The library.
        cuda: The device.
        opening: How it is run.
    """

    def __init__(self, path: Path, plan: bytes, trt: Any, cuda: Cuda, opening: Opening) -> None:
        self._path, self._cuda, self._opening = path, cuda, opening
        self._said = builder.listener(trt)
        self._runtime = trt.Runtime(self._said)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise explained("load", path, self._said.errors)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self.inputs = tuple(name for name in INPUTS if name in names)
        self.concurrency = 1
        self._lock = threading.Lock()
        there = [name for name in names if name not in self.inputs]
        kind = kinds.of_folder(path.parent)
        places = kinds.places(kind, there)
        outputs = {there[places[output.name]]: output for output in kind.OUTPUTS}
        self._lanes = [
            _Lane(trt, cuda, self._engine, self.inputs, outputs, opening, self._failed) for _ in range(LANES)
        ]

    def run(self, batch: Batch) -> Outputs:
        """Return the outputs of one padded batch."""
        return self.run_many([batch])[0]

    def run_many(self, batches: Sequence[Batch]) -> list[Outputs]:
        """Return the outputs of several padded batches; while one is computed, the next one is copied to the device."""
        parts: list[list[Outputs]] = [[] for _ in batches]
        under_way: list[tuple[int, _Lane]] = []
        with self._lock:
            self._cuda.use()
            try:
                for number, (index, part) in enumerate(self._parts(batches)):
                    if len(under_way) == LANES:
                        first, lane = under_way.pop(0)
                        parts[first].append(lane.finish())
                    lane = self._lanes[number % LANES]
                    lane.start(part)
                    under_way.append((index, lane))
                for index, lane in under_way:
                    parts[index].append(lane.finish())
            except BaseException:  # on Ctrl-C too: nothing may be under way when the next one comes
                for lane in self._lanes:
                    lane.settle()
                raise
        return [_joined(found) for found in parts]

    def placement(self) -> dict[str, int]:
        """How many layers the plan has, all of them on the GPU: TensorRT has no other place."""
        return {DEVICE: int(self._engine.num_layers)}

    def _parts(self, batches: Sequence[Batch]) -> Iterator[tuple[int, Batch]]:
        """Each batch, cut where it has more rows than any profile takes."""
        most = max(profile.rows[2] for profile in self._opening.profiles)
        for index, batch in enumerate(batches):
            for start in range(0, max(len(batch["input_ids"]), 1), most):
                yield index, {name: batch[name][start : start + most] for name in self.inputs}

    def _failed(self, what: str) -> EngineError:
        said, self._said.errors = self._said.errors, []
        return explained(what, self._path, said)


class _Lane:
    """A stream with memory of its own: one batch is under way in it at a time.

    Inputs lie at fixed addresses that take the largest batch, so that every shape uses the same; the memory that
    kernels work in is one block, whichever profile or recording is run.
    """

    def __init__(
        self, trt: Any, cuda: Cuda, engine: Any, inputs: Sequence[str], outputs: Mapping[str, Output],
        opening: Opening, failed: Callable[[str], EngineError],
    ) -> None:  # fmt: skip
        self._trt, self._cuda, self._engine, self._opening, self._failed = trt, cuda, engine, opening, failed
        self._inputs, self._outputs = tuple(inputs), outputs
        self._axes = {n: tuple(zip(o.axes, engine.get_tensor_shape(n), strict=True)) for n, o in outputs.items()}
        held: list[Callable[[], None]] = []
        weakref.finalize(self, _release, held)
        self._held = held
        self._stream = self._holding(cuda.stream(), cuda.drop_stream)
        self._scratch_bytes = int(engine.device_memory_size_v2)
        self._scratch = self._holding(cuda.allocate(self._scratch_bytes), cuda.free)
        rows, tokens = (max(getattr(p, which)[2] for p in opening.profiles) for which in ("rows", "tokens"))
        sizes = dict.fromkeys(self._inputs, rows * tokens)
        sizes |= {name: math.prod(self._shape(name, rows, tokens)) for name in outputs}
        self._device, self._host, self._views = dict[str, int](), dict[str, int](), dict[str, Any]()
        for name, count in sizes.items():
            kind = self._type(name)
            size = count * np.dtype(kind).itemsize
            self._device[name] = self._holding(cuda.allocate(size), cuda.free)
            address, held_bytes = cuda.pinned(size)
            self._host[name] = self._holding(address, cuda.unpin)
            self._views[name] = held_bytes[:size].view(kind)
        self._contexts = [self._context(index) for index in range(len(opening.profiles))]
        # TensorRT-RTX records by itself; a context of its own for each shape is what TensorRT wants.
        self._records = opening.cuda_graph and not hasattr(trt, "CudaGraphStrategy")
        self._graphs: dict[tuple[int, int], tuple[int, Any]] = {}
        self._rows = self._tokens = self._width = 0

    def start(self, batch: Batch) -> None:
        """Hands a batch to the device, and does not wait."""
        rows, tokens = batch["input_ids"].shape
        padded = self._padded(rows, tokens)
        for name in self._inputs:
            view = self._views[name][: rows * padded].reshape(rows, padded)
            view[:, :tokens] = batch[name]
            view[:, tokens:] = self._opening.pad_id if name == "input_ids" else 0
        self._rows, self._tokens, self._width = rows, tokens, padded
        if not rows:
            return
        shape = (rows, padded)
        if self._records and rows <= self._opening.graph_rows:
            if shape not in self._graphs and len(self._graphs) < MOST_GRAPHS:
                self._graphs[shape] = self._record(shape)
            if shape in self._graphs:
                self._cuda.launch(self._graphs[shape][0], self._stream)
                return
        self._enqueue(self._contexts[self._profile(shape)], shape)

    def finish(self) -> Outputs:
        """Waits for the batch: its outputs, the caller's own."""
        self._cuda.wait(self._stream)
        return {output.name: self._output(name, output) for name, output in self._outputs.items()}

    def _output(self, name: str, output: Output) -> NDArray[np.float32]:
        shape = self._shape(name, self._rows, self._width)
        found = self._views[name][: math.prod(shape)].reshape(shape)
        if "tokens" in output.axes:
            found = found[:, : self._tokens]
        if found.dtype == np.uint16:  # bf16, which numpy does not have, is the upper half of fp32
            widened: NDArray[np.float32] = (found.astype(np.uint32) << 16).view(np.float32)
            return widened
        return np.array(found, dtype=np.float32)

    def _shape(self, name: str, rows: int, tokens: int) -> tuple[int, ...]:
        """The shape of an output for a batch of so many rows and tokens."""
        counted = {"batch": rows, "tokens": tokens}
        return tuple(counted.get(axis, int(size)) for axis, size in self._axes[name])

    def settle(self) -> None:
        """Waits until nothing is under way, whatever has become of it."""
        try:
            self._cuda.wait(self._stream)
        except EngineError:
            return

    def _padded(self, rows: int, tokens: int) -> int:
        """Tokens that a batch is widened to: those of a shape that is recorded."""
        opening = self._opening
        if not opening.cuda_graph or rows > opening.graph_rows or "attention_mask" not in self._inputs:
            return tokens
        most = max(profile.tokens[2] for profile in opening.profiles)
        return max(tokens, min(-(-tokens // opening.graph_tokens) * opening.graph_tokens, most))

    def _profile(self, shape: tuple[int, int]) -> int:
        for index, profile in enumerate(self._opening.profiles):
            if shape[0] <= profile.rows[2] and shape[1] <= profile.tokens[2]:
                return index
        most = max(profile.tokens[2] for profile in self._opening.profiles)
        raise EngineError(
            f"a batch of {shape[0]} texts of {shape[1]} tokens was given, and the plan takes up to {most} tokens",
            "max_length in interface.json is what a plan is built for",
        )

    def _enqueue(self, context: Any, shape: tuple[int, int]) -> None:
        cuda, stream = self._cuda, self._stream
        for name in self._inputs:
            size = shape[0] * shape[1] * self._views[name].itemsize
            cuda.to_device(self._device[name], self._host[name], size, stream)
            if not context.set_input_shape(name, shape):
                raise self._failed("run")
        if not context.execute_async_v3(stream):
            raise self._failed("run")
        for name in self._outputs:
            size = math.prod(self._shape(name, *shape)) * self._views[name].itemsize
            cuda.to_host(self._host[name], self._device[name], size, stream)

    def _record(self, shape: tuple[int, int]) -> tuple[int, Any]:
        """A recording of a shape's copies and kernels, and the context that it needs to live."""
        context = self._context(self._profile(shape))
        self._enqueue(context, shape)  # what a shape needs once must not be recorded
        self._cuda.wait(self._stream)
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue(context, shape)
        finally:
            graph = self._cuda.end_capture(self._stream)
        return self._holding(graph, self._cuda.drop_graph), context

    def _context(self, profile: int) -> Any:
        trt, strategy = self._trt, self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self._engine, "create_runtime_config"):
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if self._opening.cuda_graph and hasattr(trt, "CudaGraphStrategy"):
                config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(strategy)
        if context is None or not context.set_optimization_profile_async(profile, self._stream):
            raise self._failed("run")
        self._cuda.wait(self._stream)
        context.set_device_memory(self._scratch, self._scratch_bytes)
        for name in self._names():
            if not context.set_tensor_address(name, self._device[name]):
                raise self._failed("run")
        return context

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]

    def _type(self, name: str) -> Any:
        kind = self._engine.get_tensor_dtype(name)
        return np.uint16 if kind == self._trt.DataType.BF16 else self._trt.nptype(kind)

    def _holding(self, handle: int, give_back: Callable[[int], None]) -> int:
        self._held.append(lambda: give_back(handle))
        return handle


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return {n: np.concatenate([part[n] for part in parts]) for n in parts[0]} if len(parts) > 1 else parts[0]


def _release(held: list[Callable[[], None]]) -> None:
    """Gives back what a lane held, the last first; a device that is gone already holds nothing."""
    for give_back in reversed(held):
        try:
            give_back()
        except EngineError:
            return
