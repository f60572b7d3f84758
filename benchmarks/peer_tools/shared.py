"""What the scripts of several tools share; imports the standard library alone, for it runs in each tool's environment.

A script is asked ``{checkpoint, out, calibration, max_length, threads, …settings}`` in the file ``sys.argv[1]``, writes
the tool's files into ``out``, and answers ``{files, versions, peak_memory_bytes}`` into the file ``sys.argv[2]``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: Operator set of the ONNX files that the tools which take ONNX are given.
OPSET = 17

Asked = dict[str, Any]


def main(work: Callable[[Asked, Path], Sequence[str]], libraries: Sequence[str]) -> None:
    """Does a tool's work and answers.

    Args:
        work: Told what is asked and the folder to write; gives the names of the engine's files.
        libraries: Distributions whose versions are recorded.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OLIVE_DISABLE_TELEMETRY": "1"}
    asked: Asked = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    files = list(work(asked, Path(asked["out"])))
    versions = {name: importlib.metadata.version(name) for name in libraries}
    answer = {"files": files, "versions": versions, "peak_memory_bytes": peak_memory_bytes()}
    Path(sys.argv[2]).write_text(json.dumps(answer), "utf-8")


def peak_memory_bytes() -> int:
    """Peak resident memory of this process and of the largest of its children."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    own = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return 1024 * max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def export(asked: Asked, path: Path) -> None:
    """Exports the checkpoint by PyTorch's TorchScript exporter, with eager attention, which optimizers know best."""
    import torch

    model = load(asked, attention="eager")
    example = next(batches(asked, 2, names(model)))
    torch.onnx.export(
        model, (), str(path), kwargs={name: torch.tensor(value) for name, value in example.items()}, dynamo=False,
        input_names=list(example), output_names=["logits"], opset_version=OPSET,
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in example} | {"logits": {0: "batch"}},
    )  # fmt: skip


def load(asked: Asked, attention: str = "sdpa") -> Any:
    """The checkpoint as a PyTorch classifier."""
    import torch
    import transformers

    torch.set_num_threads(asked["threads"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        asked["checkpoint"], attn_implementation=attention, dtype=torch.float32
    )
    model.config.return_dict = False
    return model.eval()


def names(model: Any) -> tuple[str, ...]:
    """The inputs that a model reads."""
    segments = ("token_type_ids",) if getattr(model.config, "type_vocab_size", 0) > 1 else ()
    return ("input_ids", "attention_mask", *segments)


def batches(asked: Asked, size: int, inputs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The calibration sentences, padded to the longest of each batch; arrays ``[batch, tokens]`` int64."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(asked["checkpoint"]) / "tokenizer.json"))
    tokenizer.enable_truncation(asked["max_length"])
    tokenizer.enable_padding(pad_id=asked["pad_id"])
    texts = json.loads(Path(asked["calibration"]).read_text("utf-8"))
    for start in range(0, len(texts), size):
        encoded = tokenizer.encode_batch(
            [tuple(text) if len(text) > 1 else text[0] for text in texts[start : start + size]]
        )
        columns = {
            "input_ids": [item.ids for item in encoded],
            "attention_mask": [item.attention_mask for item in encoded],
            "token_type_ids": [item.type_ids for item in encoded],
        }
        yield {name: np.array(columns[name], dtype=np.int64) for name in inputs}
