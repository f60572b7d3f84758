"""The environment of each tool: which versions, and where it lies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from toolchain.core.errors import ToolchainError
from toolchain.core.log import logger
from toolchain.core.store import key_of

_ONNX = ["onnx==1.23.2", "onnxruntime==1.31.1"]
_EXPORT = ["torch==2.13.0", "transformers==4.57.6"]

#: What is installed for each tool. Any other torch than this pulls gigabytes of CUDA packages on a CPU host.
PINS: dict[str, list[str]] = {
    "onnxruntime": [*_EXPORT, *_ONNX],
    "optimum": ["optimum-onnx==0.1.0", "optimum==2.1.0", "datasets==5.0.1", *_EXPORT, *_ONNX],
    "olive": ["olive-ai==0.13.0", "requests==2.34.2", "datasets==5.0.1", "onnxscript==0.7.2", *_EXPORT, *_ONNX],
    "inc": ["neural-compressor==3.7.1", "setuptools==81.0.0", "six==1.17.0", "numpy==1.26.4", *_EXPORT, *_ONNX],
    "openvino": ["openvino==2026.4.1", "nncf==3.4.0", "onnx==1.23.2", *_EXPORT],
}

INSTALLED = "installed.txt"


def python(tool: str, folder: Path) -> str:
    """The interpreter of a tool's environment, made when it is not there; empty for our own.

    Raises:
        ToolchainError: It cannot be installed; what pip said is in the log that the error names.
    """
    if tool not in PINS:
        return ""
    where = folder / f"{tool}-{key_of({'pins': PINS[tool]})[:8]}"
    interpreter = where / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if (where / INSTALLED).is_file():
        return str(interpreter)
    logger.info("install  %s: %s", tool, ", ".join(PINS[tool][:2]))
    shutil.rmtree(where, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{where.name}.log"
    venv = [sys.executable, "-m", "venv", "--without-pip", str(where)]
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "--disable-pip-version-check", "--no-input"]
    with log.open("wb") as said:
        for command in (venv, [*pip, "install", "-q", *PINS[tool]]):
            if subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, check=False).returncode:
                raise ToolchainError(f"the environment of {tool} cannot be made: see {log}")
    frozen = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True).stdout
    (where / INSTALLED).write_text(frozen, "utf-8")
    return str(interpreter)
