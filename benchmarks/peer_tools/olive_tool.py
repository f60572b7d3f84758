"""Olive: the workflow that ``olive optimize --precision int8`` writes for a CPU, and ``olive quantize`` without data.

Settings: ``quantize``. ``static`` takes the configuration that ``olive optimize --dry_run`` writes, calibrates on our
sentences instead of the WikiText that it would download, on the CPU instead of a GPU. ``dynamic`` runs
``olive optimize --precision fp32`` and then ``olive quantize --implementation ort``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))
from peer_tools.shared import Asked, main


def work(asked: Asked, out: Path) -> Sequence[str]:
    """Runs Olive's own commands; one ONNX file."""
    optimize = [
        "optimize", "-m", asked["checkpoint"], "-t", "text-classification", "--exporter", "torchscript_exporter",
        "--device", "cpu", "--provider", "CPUExecutionProvider",
    ]  # fmt: skip
    if asked["quantize"] == "dynamic":
        olive(*optimize, "--precision", "fp32", "-o", "optimized")
        olive(
            "quantize", "-m", str(_found("optimized")), "--implementation", "ort", "--algorithm", "rtn",
            "--precision", "int8", "-o", "result",
        )  # fmt: skip
    else:
        olive(*optimize, "--precision", "int8", "--use_qdq_format", "-o", "planned", "--dry_run")
        (Path("config.json")).write_text(json.dumps(_calibrated(asked, next(Path("planned").rglob("*.json")))), "utf-8")
        olive("run", "--config", "config.json", "-o", "result")
    _found("result").replace(out / "model.onnx")
    return ["model.onnx"]


def olive(*arguments: str) -> None:
    """Runs Olive's command line; what it prints goes to the log."""
    subprocess.run([sys.executable, "-m", "olive", *arguments], check=True)


def _calibrated(asked: Asked, planned: Path) -> Any:
    """Olive's configuration with our calibration sentences in the place of its own."""
    config = json.loads(planned.read_text("utf-8"))
    texts = json.loads(Path(asked["calibration"]).read_text("utf-8"))
    Path("calibration.jsonl").write_text(
        "\n".join(json.dumps({"text": " ".join(text), "label": 0}) for text in texts), "utf-8"
    )
    for step in config["passes"].values():
        if step["type"] == "OnnxStaticQuantization":
            step |= {"data_config": "calibration", "calibration_providers": ["CPUExecutionProvider"]}
    config["data_configs"] = [
        {
            "name": "calibration",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": "calibration.jsonl", "split": "train"},
            "pre_process_data_config": {
                "model_name": asked["checkpoint"], "task": "text-classification", "input_cols": ["text"],
                "label_col": "label", "max_length": asked["max_length"],
            },
            "dataloader_config": {"batch_size": 1},
        }
    ]  # fmt: skip
    return config


def _found(folder: str) -> Path:
    """The one ONNX file below a folder."""
    return next(Path(folder).rglob("*.onnx"))


if __name__ == "__main__":
    main(work, ("olive-ai", "onnxruntime", "onnx", "torch", "transformers"))
