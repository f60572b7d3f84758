"""Runs in Optimum's environment: loads folders in ``ORTModelForSequenceClassification``, or exports a checkpoint.

Asked ``{folders, inputs}``, it answers ``{logits: {folder: …}, classes}``; asked ``{export, out, optimize}``, it runs
Optimum's own command.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def load(folders: list[str], inputs: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from optimum.onnxruntime import ORTModelForSequenceClassification

    given = {name: np.array(value, dtype=np.int64) for name, value in inputs.items()}
    logits, labels = {}, {}
    for folder in folders:
        model = ORTModelForSequenceClassification.from_pretrained(folder)
        logits[folder] = model(**given).logits.tolist()
        labels[folder] = [model.config.id2label[i] for i in range(model.config.num_labels)]
    return {"logits": logits, "labels": labels}


def export(source: str, out: str, optimize: str) -> dict[str, Any]:
    from optimum.commands.optimum_cli import main

    level = ["--optimize", optimize] if optimize else []
    sys.argv = ["optimum-cli", "export", "onnx", "--model", source, "--task", "text-classification", *level, out]
    main()
    return {}


if __name__ == "__main__":
    answer = Path(sys.argv[2])  # Optimum's command has arguments of its own
    asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    done = (
        load(asked["folders"], asked["inputs"])
        if "folders" in asked
        else export(asked["export"], asked["out"], asked.get("optimize", ""))
    )
    answer.write_text(json.dumps(done), "utf-8")
