"""Checkpoints, graphs and engines of the GPU check, made by the toolchain itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.core import registry
from toolchain.core.data import Dataset
from toolchain.core.stage import Context
from toolchain.engines.shared import cudart
from toolchain.engines.tensorrt import builder
from toolchain.model import checkpoint, scratch

#: The longest text that is timed.
MAX_LENGTH = 384

#: Engines of the table: graph, and settings of the engine ``onnxruntime``. ``… own`` leaves fusion to ONNX Runtime.
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "ort fp32": ("fp32", {}),
    "ort tf32": ("fp32", {"use_tf32": True}),
    "ort fp16": ("fp16", {}),
    "ort fp16 lengths": ("fp16", {"mask": "lengths"}),
    "ort fp16 graph": ("fp16", {"cuda_graph": True}),
    "ort fp16 lengths graph": ("fp16", {"mask": "lengths", "cuda_graph": True}),
    "ort fp32 graph": ("fp32", {"cuda_graph": True}),
    "ort fp16 own": ("fp16", {"offline": False}),
    "ort fp16 strict": ("fp16", {"strict_norms": True}),
}

#: Plans of the engine ``tensorrt``: graph, and its settings. One graph more is made for them: ``int8``.
PLANS: dict[str, tuple[str, dict[str, Any]]] = {
    "trt fp32": ("fp32", {}),
    "trt fp16": ("fp16", {}),
    "trt fp16 graph": ("fp16", {"cuda_graph": True}),
    "trt int8": ("int8", {}),
}

#: The largest batches that plans are built for.
PLAN_ROWS = (1, 8, 32, 128)

#: Those that the table is about; the others tell where time and precision go.
ESSENTIAL = ("ort fp32", "ort tf32", "ort fp16", "ort fp16 lengths", "ort fp16 graph")

#: Settings of the session alone: the file is the same with and without. A processor has no use for them.
_SESSION_SETTINGS = ("use_tf32", "cuda_graph", "strict_norms")


@dataclass
class Prepared:
    """A model, and what was made of it.

    Attributes:
        name: In the tables.
        folder: Where everything of it lies.
        checkpoint: The classifier.
        graphs: ONNX folders, by precision.
        sessions: Open engines, by name of ``ENGINES``.
        notes: What was found while building, by engine: fusion, placement, or the error.
        built: The engine folders, by graph and what decides their file.
    """

    name: str
    folder: Path
    checkpoint: Path
    graphs: dict[str, Path] = field(default_factory=dict)
    sessions: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    built: dict[str, Path] = field(default_factory=dict)

    def close(self) -> None:
        """Lets go of the sessions, and with them of the device's memory."""
        self.sessions.clear()


def pretrained(source: Path, data: Dataset, folder: Path) -> Path:
    """A classifier on a pretrained encoder, its head new: its labels mean nothing; that they stay the same does.

    Returns:
        The checkpoint folder.
    """
    model = checkpoint.load_for_training(source, data.labels, 17)
    return _saved(model, checkpoint.load_tokenizer(source), data.labels, folder)


def random_bert(data: Dataset, folder: Path, tokenizer: Path | None, sizes: Mapping[str, int]) -> Path:
    """A BERT of random weights, wide enough apart that texts get logits of their own.

    Args:
        data: Texts for a tokenizer, where none is given.
        folder: Where to write.
        tokenizer: A folder with a BERT tokenizer; None trains one.
        sizes: What of ``BertConfig`` is not BERT-base.

    Returns:
        The checkpoint folder.
    """
    import torch
    import transformers

    if tokenizer is None:
        scratch.create("scratch:bert-1x32", data.train.texts, 17, folder / "small")
        tokenizer = folder / "small"
    words = checkpoint.load_tokenizer(tokenizer)
    config = transformers.BertConfig(**{"vocab_size": max(len(words), 1000), **sizes})
    torch.manual_seed(17)
    model = transformers.BertForSequenceClassification(config).eval()
    spread = 1.2 / config.hidden_size**0.5  # keeps the size of activations from layer to layer
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name:
            torch.nn.init.normal_(weight, std=spread)
    return _saved(model, words, data.labels, folder)


def _saved(model: Any, tokenizer: Any, labels: Sequence[str], folder: Path) -> Path:
    out = folder / "checkpoint"
    out.mkdir(parents=True)
    checkpoint.save(model, tokenizer, out, max_length=MAX_LENGTH, labels=labels, pair=False)
    return out


def export(prepared: Prepared, data: Dataset, threads: int) -> None:
    """The checkpoint's graph in fp32, compared with PyTorch as every export is."""
    _stage(prepared, registry.stage("export"), prepared.checkpoint, {}, "fp32", data, threads)


def narrow(prepared: Prepared, data: Dataset, threads: int) -> None:
    """The graph in half precision."""
    half = registry.get("optimize", "fp16")
    _stage(prepared, half, prepared.graphs["fp32"], {"samples": 16}, "fp16", data, threads)


def _stage(
    prepared: Prepared, technique: registry.Technique, source: Path, settings: Mapping[str, Any], name: str,
    data: Dataset, threads: int,
) -> None:  # fmt: skip
    out = prepared.folder / name
    out.mkdir()
    technique.module.apply(source, out, technique.config(**settings), _context(prepared, data, threads))
    checkpoint.copy_tokenizer(source, out)
    if not (out / "interface.json").is_file():
        shutil.copyfile(source / "interface.json", out / "interface.json")
    prepared.graphs[name] = out


def build(prepared: Prepared, name: str, provider: str, data: Dataset, threads: int) -> None:
    """Builds and opens an engine; one that fails a gate is opened all the same, and says so in the notes.

    An engine whose file is another's is not built again: it gets that file, and settings of its own.

    Args:
        prepared: Gets the session and a note.
        name: One of ``ENGINES``.
        provider: ``cuda``; ``cpu`` in a rehearsal.
        data: Dev texts.
        threads: Threads of the processor.
    """
    from toolchain.engines.onnxruntime.session import OnnxRuntimeSession
    from toolchain.engines.onnxruntime.tuning import Options

    precision, settings = ENGINES[name]
    if provider == "cpu":
        settings = {key: value for key, value in settings.items() if key not in _SESSION_SETTINGS}
    source = prepared.graphs[precision]
    technique = registry.get("engines", "onnxruntime")
    config = technique.config(provider=provider, tune=False, **settings)
    out = prepared.folder / name.replace(" ", "-")
    out.mkdir()
    shutil.copyfile(source / "interface.json", out / "interface.json")
    file = f"{precision} {sorted(item for item in settings.items() if item[0] not in _SESSION_SETTINGS)}"
    if file in prepared.built:
        _with_settings(prepared.built[file], out, settings)
        prepared.notes[name] = {"file": f"that of {prepared.built[file].name}"}
        prepared.sessions[name] = technique.module.open_session(out, threads)
        return
    try:
        metrics = technique.module.build(source, out, config, _context(prepared, data, threads))
    except Exception as error:
        prepared.notes[name] = {"error": f"{type(error).__name__}: {error}"}
        if not (out / "model.onnx").is_file():
            raise
        opening = technique.module._opening(config, source)
        prepared.sessions[name] = OnnxRuntimeSession(out / "model.onnx", threads, opening, Options())
        return
    kept = ("kept_source", "bytes", "fusion", "placement")
    prepared.notes[name] = {key: metrics[key] for key in kept}
    prepared.sessions[name] = technique.module.open_session(out, threads)
    prepared.built[file] = out


def no_plans() -> str:
    """Why no plans of TensorRT or TensorRT-RTX can be timed here; empty where they can."""
    library = builder.choose("auto")
    if importlib.util.find_spec(library) is None:
        return "neither tensorrt nor tensorrt-rtx is installed"
    if why := cudart.absent():
        return why
    offered, here = builder.offered(library), cudart.gpu()["compute_capability"]
    if offered and here not in offered:
        return f"{library} offers compute capabilities {', '.join(map(str, offered))}, and this GPU has {here}"
    return ""


def quantize(prepared: Prepared, data: Dataset, threads: int) -> None:
    """The graph with symmetric int8 Q/DQ pairs."""
    static = registry.get("optimize", "static_int8")
    _stage(prepared, static, prepared.graphs["fp32"], {"calibration_samples": 64}, "int8", data, threads)


def build_plan(prepared: Prepared, name: str, data: Dataset, threads: int) -> None:
    """Builds and opens a plan for the GPU that is here.

    Args:
        prepared: Gets the session and a note.
        name: One of ``PLANS``.
        data: Dev texts.
        threads: Threads of the processor.
    """
    precision, settings = PLANS[name]
    source, technique = prepared.graphs[precision], registry.get("engines", "tensorrt")
    library = builder.choose("auto")
    here = (cudart.gpu()["compute_capability"],) if builder.offered(library) else ()
    config = technique.config(batch_sizes=PLAN_ROWS, compute_capabilities=here, **settings)
    out = prepared.folder / name.replace(" ", "-")
    out.mkdir()
    shutil.copyfile(source / "interface.json", out / "interface.json")
    found = technique.module.build(source, out, config, _context(prepared, data, threads))
    told = ", ".join(f"{count} {kind}" for kind, count in found["products"].items())
    prepared.notes[name] = {"file": f"{library}, {found['bytes'] / 1e6:.1f} MB, products: {told}"}
    prepared.sessions[name] = technique.module.open_session(out, threads)


def _with_settings(built: Path, out: Path, settings: Mapping[str, Any]) -> None:
    record = json.loads((built / "engine.json").read_text(encoding="utf-8"))
    for name in record["files"]:
        (out / name).hardlink_to(built / name)
    record["options"] |= settings
    (out / "engine.json").write_text(json.dumps(record), encoding="utf-8")


def _context(prepared: Prepared, data: Dataset, threads: int) -> Context:
    work = Path(tempfile.mkdtemp(dir=prepared.folder))
    return Context(work=work, seed=17, threads=threads, dataset=lambda: data)
