"""PyTorch: the checkpoint as it was trained, in fp32, or compiled by ``torch.compile``.

The reference that every other engine is compared with; a row of the table, not what ships.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from toolchain import kinds
from toolchain.core.errors import EngineError, ModelError, require
from toolchain.core.session import INPUTS, Session
from toolchain.core.stage import Context, Metrics, StageConfig
from toolchain.engines.shared.artifact import need_space, place, read_engine, write_engine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolchain.core.session import Outputs

VERSION = 1
LIBRARIES = ("torch", "transformers")
ACCEPTS = ("checkpoint",)
EXTRA = "torch"

#: Modules that ``open_session`` loads; timing imports them before it times the session itself.
MODULES = ("torch", "transformers")

#: What a checkpoint is made of; ``history.json`` tells pruned shapes and shared layers.
_FILES = ("config.json", "model.safetensors")
_OPTIONAL = ("history.json",)


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How PyTorch runs the model."""

    #: Compile the model with ``torch.compile``; needs a C++ compiler where it runs.
    compile: bool = False
    #: What it computes in.
    dtype: Literal["float32"] = "float32"


def fingerprint(config: Config) -> dict[str, Any]:
    """The facts that the engine depends on: the checkpoint runs anywhere, as PyTorch's version has it."""
    return {"machine": platform.machine(), "torch": importlib.metadata.version("torch")}


def build(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Takes a checkpoint as it is and proves that it loads.

    Args:
        source: A checkpoint folder.
        out: The engine folder; gets ``config.json``, ``model.safetensors`` and ``engine.json``.
        config: The engine's settings.
        context: Threads to load with.

    Returns:
        ``bytes`` and ``placement``.

    Raises:
        ModelError: The source is no checkpoint, or a damaged one.
        EngineError: ``compile`` was asked for and does not work here.
    """
    require("torch", "torch")
    _check_compiler(config)
    for name in _FILES:
        if not (source / name).is_file():
            raise ModelError(f"{source / name} is missing", f"a checkpoint folder has {', '.join(_FILES)}")
    files = (*_FILES, *(name for name in _OPTIONAL if (source / name).is_file()))
    size_bytes = sum((source / name).stat().st_size for name in files)
    need_space(out, size_bytes)
    for name in files:
        place(source / name, out / name)
    # The history is a record of how the weights came about, and no part of what has to be shipped.
    write_engine(out, "pytorch", _FILES, asdict(config))
    session = open_session(out, context.threads)
    if config.compile:  # which happens at the first batch
        session.run({name: np.ones((2, 7), dtype=np.int64) for name in session.inputs})
    return {"bytes": size_bytes, "placement": session.placement()}


def open_session(folder: Path, threads: int) -> Session:
    """Loads an engine folder.

    Args:
        folder: The engine folder.
        threads: Threads that compute one batch; 0 leaves it to PyTorch.

    Raises:
        EngineError: The engine cannot be loaded, or compiled.
        ModelError: The checkpoint is damaged.
    """
    options = read_engine(folder).options
    config = Config(compile=bool(options.get("compile")))
    _check_compiler(config)
    return _PytorchSession(folder, threads, config)


class _PytorchSession:
    def __init__(self, folder: Path, threads: int, config: Config) -> None:
        from toolchain.model.checkpoint import load_model

        self._torch: Any = require("torch", "torch")
        if threads > 0:
            self._torch.set_num_threads(threads)
        self._folder, self._kind = folder, kinds.of_folder(folder)
        self._model: Any = load_model(folder).eval()
        self._call: Any = self._torch.compile(self._model, dynamic=True) if config.compile else self._model
        # Encoders without segments (RoBERTa, DistilBERT) have one row in that table, or no table at all.
        segments = int(getattr(self._model.config, "type_vocab_size", 0) or 0)
        self.inputs: tuple[str, ...] = INPUTS if segments > 1 else INPUTS[:2]

    def run(self, batch: Mapping[str, NDArray[np.int64]]) -> Outputs:
        torch = self._torch
        try:
            with torch.inference_mode():
                inputs = {name: torch.from_numpy(batch[name]) for name in self.inputs}
                outputs = self._kind.forward(self._call, inputs)
        except Exception as error:  # torch.compile's errors share no public base class
            shape = tuple(batch["input_ids"].shape)
            raise EngineError(f"PyTorch failed on {self._folder} with a batch of {shape}: {error}") from error
        return {name: value.to(torch.float32).numpy() for name, value in outputs.items()}

    def placement(self) -> dict[str, int]:
        """Counts the modules that hold weights of their own, by device."""
        devices: dict[str, int] = {}
        for module in self._model.modules():
            weight = next(module.parameters(recurse=False), None)
            if weight is not None:
                devices[weight.device.type] = devices.get(weight.device.type, 0) + 1
        return devices


def _check_compiler(config: Config) -> None:
    if config.compile and not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        raise EngineError(
            "compile: true needs a C++ compiler, and neither g++, c++ nor clang++ is on the path",
            "install one (apt-get install g++), or set compile: false",
        )
