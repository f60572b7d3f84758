"""The gate ISA: an int8 engine labels text alike without VNNI, AVX-512 and AMX; else it is stamped with what it had.

Where a switch of the runtime allows it, or an emulator is on the PATH, the engine runs once more as on a processor of
AVX2. OpenVINO's products obey ``ONEDNN_MAX_CPU_ISA``; ONNX Runtime has no switch. Beside it stands how many int8
results of the engine's graph overflow on real text (``saturation``).
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from toolchain import kinds
from toolchain.core import documents, registry
from toolchain.core.errors import EngineError, LostProcessError, ToolchainError
from toolchain.core.hooks import Engine
from toolchain.core.stage import Context
from toolchain.engines.shared.artifact import EngineFile
from toolchain.measure import parity
from toolchain.measure.machine import instruction_sets
from toolchain.measure.process import WorkerProcess, write_texts

#: Instruction sets that add products of bytes in 32 bits.
WIDE = ("avx512_vnni", "avx_vnni", "amx_int8")

#: What an int8 engine's speed and results may hang on.
STAMPED = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")

#: Emulators of other processors, by program: the options that ask for one of AVX2, the last before VNNI and AVX-512.
EMULATORS = {
    "qemu-x86_64": ("-cpu", "Haswell"),
    "qemu-x86_64-static": ("-cpu", "Haswell"),
    "sde64": ("-hsw", "--"),
    "sde": ("-hsw", "--"),
}

#: Sentences that a switch runs, and an emulator, which takes a second or more for each.
SWITCHED_SAMPLE = 128
EMULATED_SAMPLE = 16

#: Sentences whose products are looked into.
COUNTED_SAMPLE = 16

BATCH_SIZE = 8

#: Share of labels that must stay: what post-training int8 owes its float graph.
FLOOR = 0.98

#: The dialect that holds no int8 products.
FLOAT_DIALECT = "standard"


def measure(
    worker: WorkerProcess, engine: Path, manifest: EngineFile, source: Path | None, context: Context
) -> dict[str, Any]:
    """Runs an int8 engine as on a processor of AVX2, where something here can, and compares labels.

    Args:
        worker: The engine's process, on this processor as it is.
        engine: The engine folder.
        manifest: Its own file.
        source: Folder of the graph that it was built from; None where there is none.
        context: Data and threads.

    Returns:
        ``measured_on`` (instruction sets), ``wide`` (whether VNNI or AMX is among them), ``int8`` and, for an int8
        engine: ``saturation`` (:func:`saturation.count`), ``switch`` (what turned the instructions off) and ``run``
        (:func:`parity.judge`, this processor's logits against that run's); both None where nothing can.
    """
    here = instruction_sets()
    found: dict[str, Any] = {
        "measured_on": [name for name in STAMPED if name in here],
        "wide": any(name in here for name in WIDE),
        "int8": source is not None and not is_float(source),
    }
    if not found["int8"] or source is None or platform.machine() not in ("x86_64", "AMD64"):
        return found
    texts = context.dataset().dev.texts
    with tempfile.TemporaryDirectory(prefix="isa-", dir=context.work) as folder:
        file = Path(folder).resolve() / "texts.json"
        write_texts(file, texts[:COUNTED_SAMPLE])
        counted = _counted(worker, source, file, context)
        found |= {
            "int8": counted is None or counted["products"] > 0,
            "saturation": counted,
            "switch": None,
            "run": None,
        }
        engine_hooks = registry.get("engines", manifest.engine).of(Engine)
        environment, prefix = dict(engine_hooks.NARROWED_BY), emulator()
        safe = counted is not None and not counted["risky"]
        if safe or not found["int8"] or not found["wide"] or not (environment or prefix):
            return found
        prefix = () if environment else prefix
        write_texts(file, texts[: SWITCHED_SAMPLE if environment else EMULATED_SAMPLE])
        turned = " ".join(f"{name}={value}" for name, value in environment.items()) or " ".join(
            [Path(prefix[0]).name, *prefix[1:]]
        )
        return found | {"switch": turned, "run": _run(worker, engine, file, environment, prefix, context)}


def emulator() -> tuple[str, ...]:
    """The command of an emulator that is on the PATH, for a processor of AVX2; empty when there is none."""
    for name, options in EMULATORS.items():
        path = shutil.which(name)
        if path:
            return (path, *options)
    return ()


def _run(
    worker: WorkerProcess, engine: Path, file: Path, environment: dict[str, str], prefix: tuple[str, ...],
    context: Context,
) -> dict[str, Any]:  # fmt: skip
    shared: dict[str, Any] = {"texts": str(file), "batch_size": BATCH_SIZE}
    paths = [file.with_name(name) for name in ("here.npy", "there.npy")]
    worker.call("logits", lambda done: None, out=str(paths[0]), **shared)
    try:
        with WorkerProcess(f"{engine.name} without VNNI", context.threads, environment, prefix) as narrow:
            narrow.call("open", folder=str(engine.resolve()), threads=context.threads)
            narrow.call("logits", lambda done: None, out=str(paths[1]), **shared)
    except LostProcessError as error:
        if not error.crashed:
            raise
        return {"passed": None, "reason": error.message}  # an emulator's crash is no failure of the engine
    except ToolchainError as error:
        return {"passed": None, "reason": error.message}
    expected, found = map(np.load, paths)
    return parity.judge(kinds.of_folder(engine), expected, found, FLOOR)


def _counted(worker: WorkerProcess, source: Path, file: Path, context: Context) -> dict[str, Any] | None:
    """What overflows in the graph; None where ONNX Runtime cannot run it."""
    reply = worker.call("saturation", graph=str(source.resolve()), texts=str(file), scratch=str(context.work.resolve()))
    return None if "reason" in reply else reply


def is_float(source: Path) -> bool:
    """Whether a graph folder says that it holds no int8 products."""
    path = source / "interface.json"
    return path.is_file() and documents.read_object(path, EngineError).get("dialect", "") == FLOAT_DIALECT
