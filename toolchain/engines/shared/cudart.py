"""The CUDA runtime by ctypes: what an engine needs of it where a bundle is deployed, without PyTorch.

The library is found where the linker finds it, in the wheels that bring it (``nvidia-cuda-runtime``), or in the
toolkit's folder. Whoever is in doubt whether there is a GPU asks :func:`absent`, which loads the driver alone.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core.errors import EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Names of the driver and of the runtime that are looked for, the newest first.
DRIVERS = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1",)
RUNTIMES = (
    ("cudart64_13.dll", "cudart64_12.dll")
    if sys.platform == "win32"
    else ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
)

#: What to do where there is no GPU.
REMEDY = "run it on a machine with an NVIDIA GPU and its driver; in a container, with --gpus all"

#: Numbers of ``cudaDeviceGetAttribute`` and kinds of copy.
_MAJOR, _MINOR = 75, 76
_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING = 1
_THREAD_LOCAL = 1


@functools.cache
def absent() -> str:
    """Why no engine can run on a GPU here; empty where there is one.

    Asks the driver, which takes no time where there is none.
    """
    driver = next(filter(None, map(_loaded, DRIVERS)), None)
    if driver is None:
        return "no NVIDIA driver"
    count = c_int()
    if driver.cuInit(c_uint(0)) or driver.cuDeviceGetCount(byref(count)) or not count.value:
        return "no NVIDIA GPU that the driver can use"
    return ""


@functools.cache
def gpu(device: int = 0) -> dict[str, int]:
    """A GPU as the driver tells it: ``driver`` (its CUDA version) and ``compute_capability``.

    Args:
        device: Which GPU, from 0.

    Returns:
        Nothing where there is no GPU at all, and no ``compute_capability`` where there is none of that number.
    """
    if absent():
        return {}
    driver = next(filter(None, map(_loaded, DRIVERS)))
    version, handle, major, minor = (c_int() for _ in range(4))
    driver.cuDriverGetVersion(byref(version))
    if driver.cuDeviceGet(byref(handle), c_int(device)):
        return {"driver": version.value}
    for value, which in ((major, _MAJOR), (minor, _MINOR)):
        driver.cuDeviceGetAttribute(byref(value), c_int(which), handle)
    return {"driver": version.value, "compute_capability": 10 * major.value + minor.value}


class Cuda:
    """The CUDA runtime on one device.

    Args:
        device: Which GPU, from 0.

    Raises:
        EngineError: There is no driver, no GPU of that number, or no CUDA runtime.
    """

    def __init__(self, device: int = 0) -> None:
        missing = absent()
        if missing:
            raise EngineError(f"{missing} was found, and a TensorRT plan runs on an NVIDIA GPU alone", REMEDY)
        self._library = _runtime()
        count = c_int()
        self._call("cudaGetDeviceCount", byref(count))
        if device >= count.value:
            raise EngineError(f"device_id is {device}, and there are {count.value} GPUs, numbered from 0")
        self._device = device
        self.use()

    def use(self) -> None:
        """Makes the device that of the calling thread."""
        self._call("cudaSetDevice", c_int(self._device))

    @property
    def compute_capability(self) -> int:
        """The device's compute capability as one number, 89 for 8.9."""
        major, minor = (self._attribute(which) for which in (_MAJOR, _MINOR))
        return 10 * major + minor

    def allocate(self, size_bytes: int) -> int:
        """The address of so many bytes on the device."""
        return self._made("cudaMalloc", c_size_t(max(size_bytes, 1)))

    def free(self, address: int) -> None:
        """Gives memory of the device back."""
        self._call("cudaFree", c_void_p(address))

    def pinned(self, size_bytes: int) -> tuple[int, NDArray[np.uint8]]:
        """Host memory that the device copies from and to by itself: its address, and its bytes as an array."""
        address = self._made("cudaMallocHost", c_size_t(max(size_bytes, 1)))
        held = (ctypes.c_uint8 * max(size_bytes, 1)).from_address(address)
        return address, np.ctypeslib.as_array(held)

    def unpin(self, address: int) -> None:
        """Gives pinned memory back; no array of it may be used from then on."""
        self._call("cudaFreeHost", c_void_p(address))

    def stream(self) -> int:
        """A new stream."""
        return self._made("cudaStreamCreateWithFlags", c_uint(_NON_BLOCKING))

    def to_device(self, device: int, host: int, size_bytes: int, stream: int) -> None:
        """Copies pinned memory to the device, in the order of the stream."""
        self._copy(device, host, size_bytes, _TO_DEVICE, stream)

    def to_host(self, host: int, device: int, size_bytes: int, stream: int) -> None:
        """Copies memory of the device to pinned memory, in the order of the stream."""
        self._copy(host, device, size_bytes, _TO_HOST, stream)

    def wait(self, stream: int) -> None:
        """Waits until all that the stream was given is done."""
        self._call("cudaStreamSynchronize", c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        """From now on the stream's work is recorded, and not done."""
        self._call("cudaStreamBeginCapture", c_void_p(stream), c_int(_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """What was recorded, ready to be launched."""
        graph = self._made("cudaStreamEndCapture", first=c_void_p(stream))
        try:
            return self._made("cudaGraphInstantiateWithFlags", c_void_p(graph), c_ulonglong(0))
        finally:
            self._call("cudaGraphDestroy", c_void_p(graph))

    def launch(self, graph: int, stream: int) -> None:
        """Does what was recorded, in the order of the stream."""
        self._call("cudaGraphLaunch", c_void_p(graph), c_void_p(stream))

    def drop_graph(self, graph: int) -> None:
        """Forgets a recording."""
        self._call("cudaGraphExecDestroy", c_void_p(graph))

    def drop_stream(self, stream: int) -> None:
        """Ends a stream."""
        self._call("cudaStreamDestroy", c_void_p(stream))

    def _attribute(self, which: int) -> int:
        value = c_int()
        self._call("cudaDeviceGetAttribute", byref(value), c_int(which), c_int(self._device))
        return value.value

    def _copy(self, target: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync", c_void_p(target), c_void_p(source), c_size_t(size_bytes), c_int(kind), c_void_p(stream)
        )

    def _made(self, name: str, *arguments: Any, first: Any = None) -> int:
        """Calls what gives a handle or an address through its first pointer."""
        made = c_void_p()
        self._call(name, *(() if first is None else (first,)), byref(made), *arguments)
        return made.value or 0

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            said = self._library.cudaGetErrorString(c_int(code)).decode("utf-8", "replace")
            hint = "free memory of the GPU, or take smaller batches" if "memory" in said else ""
            raise EngineError(f"CUDA: {name} failed with code {code}: {said}", hint)


@functools.cache
def _runtime() -> Any:
    """The CUDA runtime.

    Raises:
        EngineError: None was found.
    """
    library = next(filter(None, (_loaded(path) for path in _places())), None)
    if library is None:
        raise EngineError(
            f"the CUDA runtime ({' or '.join(RUNTIMES)}) was not found",
            "pip install nvidia-cuda-runtime, or put the CUDA toolkit's lib folder on LD_LIBRARY_PATH",
        )
    library.cudaGetErrorString.restype = c_char_p
    library.cudaMalloc.argtypes = [POINTER(c_void_p), c_size_t]
    return library


def _places() -> Iterator[str]:
    yield from RUNTIMES
    spec = importlib.util.find_spec("nvidia")
    for folder in map(Path, (spec.submodule_search_locations if spec else None) or ()):
        for name in RUNTIMES:
            yield from map(str, sorted(folder.glob(f"*/lib/{name}")) + sorted(folder.glob(f"*/bin/**/{name}")))
    for home in filter(None, (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")):
        yield from (str(Path(home) / "lib64" / name) for name in RUNTIMES)


def _loaded(path: str) -> Any:
    try:
        return ctypes.CDLL(path)
    except OSError:
        return None
