"""Kills a run with SIGKILL at random moments, lets the next run complete, and checks what is left.

    python benchmarks/kills.py --kills 200 --json kills.json
    python benchmarks/kills.py --kills 20 --recipe recipes/smoke.yaml

Each kill starts from an empty store. After the run that follows: the files, and what manifests state of them, are those
of a run that was never killed; nothing but the step that was interrupted was done twice; ``verify`` finds the store as
published; and nothing is left of the interruption: no partial folder, no process.

Options of an engine that are tuned are decided by measured times, so that another run may decide otherwise. Tuning is
off here, unless ``--set onnxruntime.tune=true`` turns it on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from toolchain.core.store import Store
from toolchain.core.verify import verify

#: One layer, 32 texts: a run of a few seconds that has every stage.
RECIPE = """\
name: tiny
task: {reviews: {train_size: 32, dev_size: 16, test_size: 24}}
model: scratch:bert-1x32
stages: [{finetune: {epochs: 1, batch_size: 8}}]
variants: {base: [export], dynamic-int8: [export, dynamic_int8]}
engines: [onnxruntime]
benchmark: {batch_sizes: [1, 4], warmup: 1}
"""

Digests = dict[str, tuple[str, str]]

#: Kinds whose files are the same whenever and wherever on this machine they are made; timings are not.
REPEATABLE = ("checkpoint", "onnx", "engine", "evaluation")
FAST = ("benchmark.seconds=0.02", "benchmark.rounds=3", "benchmark.sample=16", "onnxruntime.tune=false")


def command(recipe: Path, store: Path) -> list[str]:
    """The run that is killed."""
    sets = [part for setting in (*FAST, *MORE) for part in ("--set", setting)]
    return [sys.executable, "-m", "toolchain", "run", str(recipe), "--store", str(store), "--threads", "1", *sets]


#: Settings of the command line, after those.
MORE: list[str] = []


def digests(store: Path) -> dict[str, tuple[str, str]]:
    """Digests of the files and of the statements of the artifacts that are repeatable, by kind and key."""
    found = Store(store).artifacts()
    return {f"{a.kind}/{a.key}": (a.digest, a.statement) for a in found if a.kind in REPEATABLE}


def published(store: Path) -> set[str]:
    """Keys in a store."""
    return {artifact.key for artifact in Store(store).artifacts()}


def leftovers(store: Path) -> list[str]:
    """What an interruption left: partial folders, and processes that still work on the store."""
    found = [str(path) for path in (store / ".partial").glob("*")]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"KILLS_STORE={store}".encode() in line and int(entry.name) != os.getpid():
            found.append(f"process {entry.name}")
    return found


def run(recipe: Path, store: Path, kill_after_s: float | None = None) -> tuple[int, float]:
    """Runs the recipe, killed after a while if asked to; gives the exit code and the seconds it took."""
    environment = os.environ | {"KILLS_STORE": str(store)}
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command(recipe, store), env=environment, stdout=subprocess.DEVNULL, stderr=log)
        try:
            process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if process.returncode > 0:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
    return process.returncode, time.monotonic() - started


def one(recipe: Path, folder: Path, expected: Digests, total: int, after_s: float) -> dict[str, Any]:
    """One kill and the run that follows it."""
    store = folder / "killed"
    shutil.rmtree(store, ignore_errors=True)
    code, _ = run(recipe, store, after_s)
    before = published(store)
    partial = sorted(path.name.partition(".")[0] for path in (store / ".partial").glob("*") if path.is_dir())
    code_after, seconds = run(recipe, store)
    after = published(store)
    found = digests(store)
    time.sleep(0.5)
    checkpoints = [a for a in Store(store).artifacts() if a.kind == "checkpoint"]
    result = {
        "killed_after_s": round(after_s, 2), "killed": code == -signal.SIGKILL, "published_before": len(before),
        "interrupted": len(partial), "completed": code_after == 0, "seconds_after": round(seconds, 1),
        "resumed_at": max((a.metrics.get("resumed_at", 0) for a in checkpoints), default=0),
        "same_digests": found == expected, "differ": [name for name in expected if found.get(name) != expected[name]],
        "kept": before <= after, "total": len(after) == total, "verified": not verify(Store(store)).problems,
        "leftovers": leftovers(store),
    }  # fmt: skip
    needed = ("completed", "same_digests", "kept", "total", "verified")
    result["ok"] = all(result[name] for name in needed) and not result["leftovers"]
    return result


def main() -> int:
    """Runs the kills and prints a summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--recipe", type=Path, help="by default one of a few seconds that has every stage")
    parser.add_argument("--minutes", type=float, default=600, help="kill no more after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="sets", help="another setting of the run")
    parser.add_argument("--json", type=Path, help="write every kill's record here")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    MORE.extend(arguments.sets)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder, until = Path(name), time.monotonic() + 60 * arguments.minutes
        recipe = arguments.recipe or folder / "tiny.yaml"
        if not arguments.recipe:
            recipe.write_text(RECIPE, "utf-8")
        code, length = run(recipe, folder / "reference")
        if code:
            return code
        expected, total = digests(folder / "reference"), len(published(folder / "reference"))
        print(f"reference: {total} artifacts in {length:.1f} s", flush=True)
        records = []
        for number in range(arguments.kills):
            if time.monotonic() > until:
                break
            record = one(recipe, folder, expected, total, rng.uniform(0.2, length))
            records.append(record)
            print(f"{number + 1:4d}  {json.dumps(record)}", flush=True)
    killed = [record for record in records if record["killed"]]
    summary = {
        "kills": len(killed), "ok": sum(record["ok"] for record in killed),
        "resumed_in_training": sum(record["resumed_at"] > 0 for record in killed),
        "artifacts_at_the_kill": dict(sorted(Counter(record["published_before"] for record in killed).items())),
    }  # fmt: skip
    print(json.dumps(summary, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps({"summary": summary, "kills": records}, indent=2) + "\n", "utf-8")
    return 0 if all(record["ok"] for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
