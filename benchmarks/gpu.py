"""The whole GPU check in one go: the toolchain's engines on an NVIDIA GPU beside PyTorch, fixed shapes and real text.

    benchmarks/gpu.sh --output artifacts/published/gpu --data FOLDER --model FOLDER

Needs a GPU, PyTorch with CUDA, and onnxruntime-gpu. What is missing is said, and the rest is done; results are written
after every part. Parts go from the most to the least important, and those that the budget does not hold are named.
Without a GPU it ends with code 2; ``--rehearse`` runs the same parts on the processor, at tiny sizes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpu_check import models, parts
from gpu_check.contestants import COMPILED, TORCH, TorchModel
from gpu_check.record import Record
from gpu_check.rounds import Effort

from toolchain.core import registry
from toolchain.core.data import Dataset

STARTED = time.monotonic()

#: Shapes ``(rows, tokens)`` from the most to the least important.
FIRST = ((128, 128), (1, 128), (32, 128), (1, 32))
REST = ((8, 128), (128, 32), (128, 384), (1, 384), (32, 32), (8, 32), (32, 384), (8, 384))

PACKAGES = ("torch", "transformers", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "numpy")

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


class Check:
    """One run of the check.

    Args:
        options: The command line.
        folder: Where models are made.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.device = "cpu" if options.rehearse else "cuda"
        self.threads = options.threads or max(1, min(8, (os.cpu_count() or 2) // 2))
        private = {str(folder): "WORK", str(Path.cwd()): ".", str(Path(__file__).resolve().parents[1]): "."}
        private |= {str(path): name for path, name in ((options.model, "MODEL"), (options.data, "DATA")) if path}
        self.record = Record(options.output, options.budget, private, STARTED)
        self.data = self._dataset()
        self.effort = Effort(3, 0.002) if options.rehearse else Effort()
        self.pace = 0.0 if options.rehearse else 1.0  # a rehearsal leaves nothing out for want of time
        self.plans = ""  # why there are none

    def _dataset(self) -> Dataset:
        name = "sst2" if self.options.data else "reviews"
        task = registry.get("tasks", name)
        sizes = {"train_size": 64, "dev_size": 24, "test_size": 8} if self.options.rehearse else {}
        found: Dataset = task.module.load(
            task.config(folder=str(self.options.data)) if self.options.data else task.config(**sizes)
        )
        return found

    def run(self) -> None:
        """Everything, in order of importance."""
        tiny = self.options.rehearse
        self.record.results["rehearsal"] = tiny
        self.record.part("environment", 0, self._environment)
        first, rest = (FIRST[:1], ()) if tiny else (FIRST, REST)
        mini = base = None
        if self.options.model:
            mini = self._prepared("MiniLM", 25)
            self._measure(mini, first[:2])
        else:
            self.record.results["missing"].append("MiniLM: name its folder with --model")
        base = self._prepared("BERT-base", 45)
        self._measure(base, first)
        self._lengths(base, 32)
        self._measure(mini, first[2:])
        self._lengths(mini, 32)
        small = mini or base
        self._extras(small)
        if not tiny:
            self._compiled(base)
        for rows, length in rest:
            for model in filter(None, (base, mini)):
                self._shape(model, rows, length)
        if not tiny:
            for model in filter(None, (base, mini)):
                self._lengths(model, 128)
            self._extras(base if small is mini else None)
            self._compiled(mini)
        self.record.write()

    def _prepared(self, name: str, seconds: float) -> models.Prepared | None:
        """Checkpoint, graphs, and what is to be timed; None where there is nothing to time."""
        record, data, threads, pace = self.record, self.data, self.threads, self.pace
        prepared = models.Prepared(name, self.folder / name, self.folder / name / "checkpoint")
        prepared.folder.mkdir(parents=True)
        sizes = TINY if self.options.rehearse else {}
        create: Callable[[], Any] = partial(models.random_bert, data, prepared.folder, self.options.model, sizes)
        if name == "MiniLM":
            create = partial(models.pretrained, self.options.model, data, prepared.folder)
        if not record.part(f"{name}: checkpoint", pace * seconds, create):
            return None
        if record.part(f"{name}: export", pace * seconds, partial(models.export, prepared, data, threads)):
            record.part(f"{name}: fp16 graph", pace * seconds / 2, partial(models.narrow, prepared, data, threads))
        self._build(prepared, models.ESSENTIAL)
        if not self.plans:
            self._build_plans(prepared)
        for name, (kind, mode) in TORCH.items():
            self._torch(prepared, name, kind, mode)
        return prepared

    def _build(self, prepared: models.Prepared, names: Sequence[str]) -> None:
        for name in names:
            if models.ENGINES[name][0] in prepared.graphs:
                work = partial(models.build, prepared, name, self.device, self.data, self.threads)
                self.record.part(f"{prepared.name}: build {name}", self.pace * 6, work)
                self.record.say(f"  {str(prepared.notes.get(name, {}))[:1500]}")
        self._note(prepared)

    def _build_plans(self, prepared: models.Prepared) -> None:
        if "fp32" in prepared.graphs:
            work = partial(models.quantize, prepared, self.data, self.threads)
            self.record.part(f"{prepared.name}: int8 graph", self.pace * 20, work)
        for name, (precision, _) in models.PLANS.items():
            if precision in prepared.graphs:
                work = partial(models.build_plan, prepared, name, self.data, self.threads)
                self.record.part(f"{prepared.name}: build {name}", self.pace * 15, work)
        self._note(prepared)

    def _note(self, prepared: models.Prepared) -> None:
        noted = {name: self._cleaned(note) for name, note in prepared.notes.items()}
        self.record.results.setdefault("builds", {})[prepared.name] = noted

    def _cleaned(self, note: dict[str, Any]) -> dict[str, Any]:
        return {key: self.record.clean(value) if isinstance(value, str) else value for key, value in note.items()}

    def _torch(self, prepared: models.Prepared, name: str, kind: str, mode: str) -> None:
        def load() -> None:
            found = TorchModel(prepared.checkpoint, kind, mode, self.device, tf32="tf32" in name)
            prepared.sessions[name] = found

        self.record.part(f"{prepared.name}: {name}", self.pace * 3, load)

    def _measure(self, prepared: models.Prepared | None, shapes: Sequence[tuple[int, int]]) -> None:
        """Answers, the first time, and shapes."""
        if prepared is None:
            return
        if prepared.name not in self.record.results.get("answers", {}):
            self._answers(prepared, prepared.sessions)
        for rows, length in shapes:
            self._shape(prepared, rows, length)

    def _answers(self, prepared: models.Prepared, contestants: dict[str, Any]) -> None:
        reference = prepared.sessions.get("torch fp32")
        if reference is not None:
            work = partial(parts.answers, self.record, prepared, contestants, reference, self._texts(prepared))
            self.record.part(f"{prepared.name}: answers of {len(contestants)}", self.pace * 5, work)

    def _texts(self, prepared: models.Prepared, most: int | None = None) -> list[Any]:
        if self.options.rehearse:
            most = 24
        return parts.encode(prepared, self.data.dev.texts[:most])

    def _lengths(self, prepared: models.Prepared | None, size: int) -> None:
        if prepared is None:
            return
        names = ("ort fp16", "ort fp32", "torch fp16", "trt fp16")
        some = {name: prepared.sessions[name] for name in names if name in prepared.sessions}
        effort = Effort(min(5, self.effort.rounds), 0.0)
        work = partial(parts.lengths, self.record, prepared, some, self._texts(prepared), size, effort)
        self.record.part(f"{prepared.name}: real lengths, batches of {size}", self.pace * 8, work)

    def _shape(self, prepared: models.Prepared, rows: int, length: int, some: Sequence[str] = (), **more: Any) -> None:
        if self.options.rehearse:
            rows, length = min(rows, 3), min(length, 24)
        contestants = {name: one for name, one in prepared.sessions.items() if not some or name in some}
        texts = self._texts(prepared, 64)
        work = partial(parts.shape, self.record, prepared, contestants, texts, rows, length, self.effort, **more)
        seconds = 30.0 if any("compile" in name for name in some) else 3 + rows * length / 3000
        self.record.part(f"{prepared.name}: {rows} × {length}{', ' if some else ''}{some[0] if some else ''}",
                         self.pace * seconds, work)  # fmt: skip

    def _extras(self, prepared: models.Prepared | None) -> None:
        """The engines that tell where time and precision go, beside the essential ones, at two shapes."""
        if prepared is None:
            return
        names = [name for name in models.ENGINES if name not in models.ESSENTIAL]
        self._build(prepared, names)
        extras = {name: prepared.sessions[name] for name in names if name in prepared.sessions}
        if extras:
            self._answers(prepared, extras)
            for rows, length in FIRST[:2]:
                self._shape(prepared, rows, length, (*extras, *models.ESSENTIAL), beside=tuple(extras))
        for name in extras:  # the rest of the shapes is not for them
            del prepared.sessions[name]

    def _compiled(self, prepared: models.Prepared | None) -> None:
        """``torch.compile`` at two shapes beside ONNX Runtime: it compiles anew for each."""
        if prepared is None:
            return
        for name, (kind, mode) in COMPILED.items():
            self._torch(prepared, name, kind, mode)
        compiled = [name for name in COMPILED if name in prepared.sessions]
        for rows, length in ((1, 128), (128, 128)):
            for name in compiled:
                some = (name, "ort fp32", "ort fp16", "ort fp16 graph")
                self._shape(prepared, rows, length, some, beside=(name,))
        for name in compiled:
            del prepared.sessions[name]

    def _environment(self) -> None:
        import onnxruntime
        import torch

        found: dict[str, Any] = {}
        if torch.cuda.is_available() and not self.options.rehearse:
            properties = torch.cuda.get_device_properties(0)
            found["GPU"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
            found["compute capability"] = f"{properties.major}.{properties.minor}"
            found["GPU state"] = _smi()
        found["CUDA of PyTorch"] = torch.version.cuda
        found["cuDNN"] = torch.backends.cudnn.version()
        found["providers of ONNX Runtime"] = ", ".join(onnxruntime.get_available_providers())
        found["Python"] = sys.version.split()[0]
        found["threads of the processor"] = self.threads
        for name in PACKAGES:
            if version := _version(name):
                found[name] = version
        self.record.results["environment"] = found
        for line in found.items():
            self.record.say(f"  {line[0]}: {line[1]}")
        self.plans = models.no_plans()
        if self.plans:
            self.record.results["missing"].append(f"plans of TensorRT and TensorRT-RTX: {self.plans}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _smi() -> str:
    """Driver, clock, power and temperature, as the driver's own tool tells them."""
    asked = "driver_version,clocks.sm,clocks.max.sm,power.draw,power.limit,temperature.gpu"
    try:
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader", "--id=0"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def unusable() -> str:
    """Why there is nothing to check here; empty where there is."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnxruntime") is None:
        return "PyTorch and ONNX Runtime are needed: pip install 'toolchain[torch,gpu]'"
    import torch

    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU that PyTorch can use"
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA provider: pip uninstall onnxruntime; pip install 'toolchain[gpu]'"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.json, gpu.md and gpu.log")
    parser.add_argument("--data", type=Path, help="folder with SST-2's train.tsv, dev.tsv, test.tsv; else reviews")
    parser.add_argument("--model", type=Path, help="folder of MiniLM BERT; else it is left out")
    parser.add_argument("--budget", type=float, default=1140, help="seconds in all (default: 19 minutes)")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0: half of them, at most 8")
    parser.add_argument("--rehearse", action="store_true", help="run on the processor, at tiny sizes")
    options = parser.parse_args(arguments)
    options.data, options.model = (path and path.resolve() for path in (options.data, options.model))
    why = "" if options.rehearse else unusable()
    if why:
        print(f"gpu: {why}\n  hint: --rehearse runs the same parts on the processor, at tiny sizes", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        check = Check(options, Path(folder))
        check.run()
    found = check.record.results
    print(options.output / "gpu.md")
    check.record.say(f"{len(found['failed'])} failed, {len(found['left_out'])} left out")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
