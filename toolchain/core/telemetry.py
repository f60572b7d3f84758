"""Switches off what vendors' libraries send home, and the ids that they write to the home folder for it.

The switches are read when a library is imported, so they are set when this package is, and child processes inherit
those that are variables of the environment.
"""

from __future__ import annotations

import os
import sys

#: Variable → value, for libraries that can be told by the environment.
VARIABLES = {
    "DO_NOT_TRACK": "1",  # the convention that several libraries follow
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers, datasets
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime from 1.29 on, on Linux too
}

#: OpenVINO and NNCF read no variable. Both go on without this package where it is not installed.
SENDER = "openvino_telemetry"


def switch_off() -> None:
    """Switch off the telemetry of every vendor for this process and those that it starts."""
    os.environ.update(VARIABLES)
    if SENDER not in sys.modules:
        sys.modules[SENDER] = None  # type: ignore[assignment]  # what makes an import fail
