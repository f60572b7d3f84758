"""Peak memory of export and quantization of a BERT-base-shaped model, each in a process of its own; and of an engine.

    python benchmarks/memory.py --json memory.json
    python benchmarks/memory.py --mixed ENGINE [--batches 3000]

The weights are random: they serve for memory and time alone. The bound is 1 GB + 4 × the checkpoint. With ``--mixed``,
an engine folder computes batches of 1 to 32 rows of 3 to 128 tokens, drawn at random: what a server sees.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from toolchain.core.stage import Context
from toolchain.model import checkpoint
from toolchain.tasks import reviews

STEPS = ("export", "dynamic_int8", "static_int8", "build")


def create(folder: Path) -> None:
    """Writes a classifier of BERT-base's shape with MiniLM-like vocabulary size and a tokenizer of frequent words."""
    import torch
    import transformers

    from toolchain.model import scratch

    data = reviews.load(reviews.Config())
    scratch.create("scratch:bert-1x32", data.train.texts, 17, folder / "small")
    torch.manual_seed(17)
    model = transformers.BertForSequenceClassification(transformers.BertConfig())
    folder.joinpath("checkpoint").mkdir()
    checkpoint.save(
        model, checkpoint.load_tokenizer(folder / "small"), folder / "checkpoint", max_length=128,
        labels=data.labels, pair=False,
    )  # fmt: skip


def step(name: str, folder: Path) -> None:
    """Does one step in this process and prints its peak memory in bytes."""
    from toolchain.core import registry

    data = reviews.load(reviews.Config())
    context = Context(work=folder, seed=17, threads=2, dataset=lambda: data)
    source = {"export": "checkpoint", "build": "dynamic_int8"}.get(name, "export")
    out = folder / name
    out.mkdir()
    if name == "export":
        technique = registry.stage("export")
    else:
        technique = registry.get("engines", "onnxruntime") if name == "build" else registry.get("optimize", name)
    work = technique.module.build if name == "build" else technique.module.apply
    work(folder / source, out, technique.config(), context)
    for file in ("tokenizer.json", "interface.json"):
        if not (out / file).exists():
            (out / file).write_bytes((folder / source / file).read_bytes())
    print(peak_bytes())


def mixed(folder: Path, batches: int) -> None:
    """Computes batches of mixed shapes and prints the memory that this process holds on the way."""
    import numpy as np

    from toolchain.runtime.predictor import open_engine

    session = open_engine(folder, 1)
    generator = np.random.default_rng(0)
    print(f"opened {resident_bytes() / 1e6:,.0f} MB")
    for count in range(1, batches + 1):
        shape = int(generator.integers(1, 33)), int(generator.integers(3, 129))
        ids = generator.integers(4, 60, shape)
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        session.run({name: batch[name] for name in session.inputs})
        if count % max(1, batches // 6) == 0:
            print(f"{count:5d} batches {resident_bytes() / 1e6:,.0f} MB", flush=True)


def resident_bytes() -> int:
    """Memory that this process holds now."""
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> int:
    """Measures every step and compares with the bound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--mixed", type=Path, metavar="ENGINE", help="measure an engine folder on mixed shapes")
    parser.add_argument("--batches", type=int, default=3000, help="batches of --mixed")
    arguments = parser.parse_args()
    if arguments.mixed:
        mixed(arguments.mixed, arguments.batches)
        return 0
    if arguments.step:
        step(arguments.step[0], Path(arguments.step[1]))
        return 0
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        folder = Path(name)
        create(folder)
        size = (folder / "checkpoint/model.safetensors").stat().st_size
        bound = 10**9 + 4 * size
        figures: dict[str, Any] = {"checkpoint_bytes": size, "bound_bytes": bound, "steps": {}}
        for current in STEPS:
            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, __file__, "--step", current, name], stdout=subprocess.PIPE, text=True, check=True
            )
            peak = int(done.stdout.split()[-1])
            seconds = round(time.monotonic() - started, 1)
            figures["steps"][current] = {"peak_bytes": peak, "seconds": seconds, "within": peak <= bound}
            print(f"{current:14s} {peak / 1e6:8,.0f} MB   {seconds:6.1f} s   bound {bound / 1e6:,.0f} MB", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return 0 if all(entry["within"] for entry in figures["steps"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
