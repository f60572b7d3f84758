"""ONNX Runtime on an NVIDIA GPU: finding its libraries, its provider's options, and batches bound to device buffers.

A batch of a known shape has its buffers on the device, bound once: what remains of a call is the copy of the ids, the
run, and the copy of the outputs. With ``cuda_graph`` the run itself is recorded at the first batch of a shape and
replayed from then on, which spares the launch of every kernel: one captured graph for each shape, at fixed addresses.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from toolchain.core.errors import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolchain.core.session import Outputs

#: Shapes whose buffers are kept; those of the least recently used one go first.
MOST_SHAPES = 64

#: Shapes that are captured as CUDA graphs; further ones run without.
MOST_GRAPHS = 256

#: Shapes that have a session of their own, where one session records one shape: each holds its weights again.
MOST_SESSIONS = 16

#: ONNX Runtime's attention kernels that may serve rows of given lengths: flash, memory-efficient, cuDNN's, plain.
_KERNELS_OF_LENGTHS = 1 + 2 + 8 + 16

_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class Wanted(Protocol):
    """What of an engine's opening concerns the GPU; see its ``Config``."""

    @property
    def device_id(self) -> int:
        """Return the GPU's number."""
        ...

    @property
    def use_tf32(self) -> bool:
        """Return whether products may be computed in TF32."""
        ...

    @property
    def strict_norms(self) -> bool:
        """Return whether layer normalization is computed in float32."""
        ...

    @property
    def lengths(self) -> bool:
        """Return whether rows are given by their lengths."""
        ...

    @property
    def cuda_graph(self) -> bool:
        """Return whether runs are recorded as CUDA graphs."""
        ...

    @property
    def graph_rows(self) -> int:
        """Return the rows that a recorded shape is padded to."""
        ...

    @property
    def graph_tokens(self) -> int:
        """Return the tokens that a recorded shape is padded to."""
        ...

    @property
    def most_tokens(self) -> int:
        """Return the most tokens of a batch."""
        ...


@functools.cache
def preload() -> None:
    """Loads CUDA and cuDNN from the wheels that brought them (nvidia-*, or PyTorch's), once.

    Without it ONNX Runtime finds only what the system's linker finds. It tells what is missing, on stderr; whether that
    matters shows when a session is opened.
    """
    load = getattr(require("onnxruntime", "gpu"), "preload_dlls", None)
    if load is not None:
        with contextlib.redirect_stdout(sys.stderr):
            load()


def provider_options(wanted: Wanted) -> dict[str, str]:
    """Options of the CUDA provider.

    Convolutions, layouts and tuned operators have options too; an encoder has none of those.
    """
    options = {
        "device_id": str(wanted.device_id),
        "use_tf32": str(int(wanted.use_tf32)),
        "enable_cuda_graph": str(int(wanted.cuda_graph)),
        "enable_skip_layer_norm_strict_mode": str(int(wanted.strict_norms)),
    }
    return options | ({"sdpa_kernel": str(_KERNELS_OF_LENGTHS)} if wanted.lengths else {})


class Binding:
    """A shape of batch whose inputs and outputs lie at fixed addresses of a device.

    Args:
        session: An ``InferenceSession``.
        feed: A batch, every input as the graph reads it; it is copied.
        outputs: What the graph calls each output that is wanted, by its name.
        device: ``cuda``, or ``cpu``.
        device_id: Which one.
        graph: Number of the CUDA graph that its runs are captured as, from 1; -1 to run without; None where the session
            captures none.
    """

    def __init__(
        self, session: Any, feed: Mapping[str, NDArray[Any]], outputs: Mapping[str, str], device: str, device_id: int,
        graph: int | None = None,
    ) -> None:  # fmt: skip
        ort = require("onnxruntime", "gpu" if device == "cuda" else "cpu")
        self._session, self._ort = session, ort
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(np.array(value, order="C"), device, device_id)
            for name, value in feed.items()
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        there = {item.name: item for item in session.get_outputs()}
        rows = len(next(iter(feed.values())))
        shapes = {graph_name: [rows, *there[graph_name].shape[1:]] for graph_name in outputs.values()}
        if not all(isinstance(size, int) for shape in shapes.values() for size in shape):
            for graph_name in shapes:
                self._binding.bind_output(graph_name, device, device_id)
            session.run_with_iobinding(self._binding, self._options(None if graph is None else -1))
            values = zip(shapes, self._binding.get_outputs(), strict=True)
            shapes = {graph_name: list(value.shape()) for graph_name, value in values}
            self._binding.clear_binding_outputs()
        self._outputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(shapes[own], _TYPES[there[own].type], device, device_id)
            for name, own in outputs.items()
        }
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(outputs[name], value)
        self._run_options = self._options(graph)

    def load(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Copies a batch of the same shape to the device."""
        for name, value in self._inputs.items():
            value.update_inplace(feed[name])

    def run(self) -> None:
        """Computes the outputs of what was loaded; they are there when it returns."""
        self._session.run_with_iobinding(self._binding, self._run_options)

    def outputs(self) -> Outputs:
        """Copies the outputs from the device, the caller's own."""
        return {name: np.array(value.numpy(), dtype=np.float32) for name, value in self._outputs.items()}

    def _options(self, graph: int | None) -> Any:
        if graph is None:
            return None
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options


class Bindings:
    """The shapes that a session has met, each bound once; callers of several threads take turns.

    Args:
        session: An ``InferenceSession``.
        wanted: How it was opened.
        outputs: What the graph calls each output that is wanted, by its name.
        device: Where buffers lie.
        recorder: Opens a session that records one shape, where the provider records no more than one in a session;
            None where this session records all of them.
    """

    def __init__(
        self, session: Any, wanted: Wanted, outputs: Mapping[str, str], device: str = "cuda",
        recorder: Callable[[], Any] | None = None,
    ) -> None:  # fmt: skip
        self._session, self._wanted, self._device, self._recorder = session, wanted, device, recorder
        self._outputs = outputs
        self._most_graphs = MOST_GRAPHS if recorder is None else MOST_SESSIONS
        self._lock = threading.Lock()
        self._plain: OrderedDict[tuple[int, ...], Binding] = OrderedDict()
        self._graphs: dict[tuple[int, ...], Binding] = {}

    @property
    def shapes(self) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """The shapes ``(rows, tokens)`` that are captured, and those that are bound without."""
        return tuple(self._graphs), tuple(self._plain)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> Outputs:
        """Return the outputs of a batch."""
        with self._lock:
            binding, feed = self._bound(feed)
            binding.load(feed)
            binding.run()
            return binding.outputs()

    def bind(self, feed: Mapping[str, NDArray[Any]]) -> Binding:
        """The binding that serves a batch's shape, with the batch loaded: what is timed without copies."""
        with self._lock:
            binding, feed = self._bound(feed)
            binding.load(feed)
            return binding

    def _bound(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Binding, Mapping[str, NDArray[Any]]]:
        """A binding, and the batch as that reads it."""
        wanted = self._wanted
        rows, tokens = next(iter(feed.values())).shape
        if wanted.cuda_graph and rows <= wanted.graph_rows:
            most = max(wanted.most_tokens, tokens) if wanted.most_tokens else sys.maxsize
            # Without a mask nobody would know the columns that are added.
            unit = wanted.graph_tokens if "attention_mask" in feed else 1
            padded = min(-(-tokens // unit) * unit, most)
            key = (rows, padded)
            if key in self._graphs or len(self._graphs) < self._most_graphs:
                feed = {name: _widened(value, padded) for name, value in feed.items()}
                if key not in self._graphs:
                    self._graphs[key] = self._made(feed, len(self._graphs) + 1)
                return self._graphs[key], feed
        key = (rows, tokens)
        if key not in self._plain:
            while len(self._plain) >= MOST_SHAPES:
                self._plain.popitem(last=False)
            self._plain[key] = self._made(feed, -1 if wanted.cuda_graph else None)
        self._plain.move_to_end(key)
        return self._plain[key], feed

    def _made(self, feed: Mapping[str, NDArray[Any]], graph: int | None) -> Binding:
        if self._recorder is not None:  # numbers of graphs are nothing to such a provider
            session = self._recorder() if graph is not None and graph > 0 else self._session
            return Binding(session, feed, self._outputs, self._device, self._wanted.device_id)
        return Binding(self._session, feed, self._outputs, self._device, self._wanted.device_id, graph)


def _widened(value: NDArray[Any], tokens: int) -> NDArray[Any]:
    """A batch with columns of zeros after its last: what the attention mask has as zero is not read."""
    missing = tokens - value.shape[1]
    return np.pad(value, ((0, 0), (0, missing))) if missing else value
