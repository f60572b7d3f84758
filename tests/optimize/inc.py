"""What the tests of the Neural Compressor passes share: a small data set, and a pass run on a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.builders import context, onnx_folder, sentences
from toolchain.core.data import Dataset
from toolchain.model import graph

DATA = sentences()


def made(technique: Any, architecture: str, folder: Path, data: Dataset = DATA, **settings: Any) -> Any:
    """The graph that a pass makes of a small model, and its metrics; what it leaves behind is nothing."""
    out, work = folder / "out", folder / "work"
    out.mkdir()
    work.mkdir()
    metrics = technique.apply(onnx_folder(architecture), out, technique.Config(**settings), context(work, data))
    assert list(work.iterdir()) == []
    assert [path.name for path in out.iterdir()] == ["model.onnx"]
    return graph.load(out / "model.onnx"), metrics
