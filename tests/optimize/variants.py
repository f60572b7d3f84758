"""What the tests of graph passes share: a pass run on a small model, and logits at many shapes with padding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from tests.builders import MAX_LENGTH, SENTENCES, checkpoint_folder, context
from tests.shared import once
from toolchain import kinds
from toolchain.model import export, graph, tidy, tokens

FAMILIES = ("bert", "albert", "roberta")

#: Rows and tokens: one row and several, the shortest text and the longest.
SHAPES = ((1, 3), (1, MAX_LENGTH), (2, 4), (3, 9), (4, 17), (5, MAX_LENGTH))


def exported(architecture: str) -> Path:
    """The small model with eager attention, as our own exporter writes it; never to be written to."""
    return once(f"exported-{architecture}", lambda out: _export(architecture, out))


def _export(architecture: str, folder: Path) -> None:
    import torch
    import transformers

    source = checkpoint_folder(architecture)
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source, attn_implementation="eager")
    names = ["input_ids", "attention_mask", "token_type_ids"][: 2 if architecture == "roberta" else 3]
    interface = json.loads((source / "interface.json").read_text())
    (folder / "interface.json").write_text(json.dumps({**interface, "inputs": names, "dialect": "standard"}))
    kind = kinds.get("classification")
    wrapper = export.outputs_only(model.eval(), names, kind).eval()
    inputs = {name: torch.ones((2, 7), dtype=torch.int64) for name in names}
    program = export.trace(wrapper, inputs, names, export.Config().opset, source, kind=kind)
    tidy.store_transposed(program.model)
    tidy.strip(program.model)
    program.save(str(folder / "model.onnx"))


def made(technique: Any, source: Path, out: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    """Runs a pass as the pipeline does: tokenizer and interface carried on, with the dialect that the graph has."""
    out.mkdir(parents=True, exist_ok=True)
    metrics = technique.apply(source, out, technique.Config(**settings), context(out))
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    written = out / "interface.json"  # by a pass that changes what the graph reads
    interface = json.loads((written if written.is_file() else source / "interface.json").read_text())
    interface["dialect"] = graph.dialect(graph.load(out / "model.onnx"))
    (out / "interface.json").write_text(json.dumps(interface))
    return out, metrics


def logits(folder: Path, options: Any = None) -> Iterator[Any]:
    """Logits at every shape of SHAPES; all rows but the first are padded to different lengths."""
    options = options or ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for rows, length in SHAPES:
        ids = generator.integers(4, 60, (rows, length))
        mask = np.ones_like(ids)
        for row in range(1, rows):
            mask[row, max(2, length - 2 * row) :] = 0
        ids[mask == 0] = 0
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        yield session.run(None, {item.name: feed[item.name] for item in session.get_inputs()})[0]


def sentence_logits(folder: Path) -> Any:
    """Logits ``[8, 2]`` of the sentences that the tests calibrate on, by the graph as it stands in its file.

    Optimized, ONNX Runtime would take integer kernels, whose 16-bit sums saturate on processors without VNNI.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    batch = tokens.padded(folder, tokens.encode(folder, [(text,) for text in SENTENCES]))
    return session.run(None, {item.name: batch[item.name] for item in session.get_inputs()})[0]


def difference(one: Path, other: Path) -> float:
    """The largest |Δlogit| over all shapes."""
    pairs = list(zip(logits(one), logits(other), strict=True))
    assert [a.shape for a, _ in pairs] == [(rows, 2) for rows, _ in SHAPES]
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def operators(folder: Path) -> list[str]:
    """The operators of a graph, in order."""
    return [node.op_type for node in graph.load(folder / "model.onnx").graph.node]


def save(folder: Path, model: Any) -> Path:
    """Writes a changed graph."""
    onnx.save(model, str(folder / "model.onnx"))
    return folder
