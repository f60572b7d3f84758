"""Exports a checkpoint with Optimum; runs in a Python of its own, with nothing but Optimum and what it needs.

Reads ``{source, out, opset}`` from the file ``sys.argv[1]``; writes ``{versions}`` to ``sys.argv[2]``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path

LIBRARIES = ("optimum-onnx", "optimum", "transformers", "torch")


def main(request: Path, answer: Path) -> None:
    """Exports the model as a text classifier, without the tokenizer and without Optimum's own check of the result."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}  # the checkpoint is a local folder
    from optimum.exporters.onnx import main_export

    main_export(
        asked["source"], asked["out"], task="text-classification", opset=asked["opset"], device="cpu", framework="pt",
        library_name="transformers", do_validation=False, local_files_only=True,
        trust_remote_code=False,
    )  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    answer.write_text(json.dumps({"versions": versions}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
