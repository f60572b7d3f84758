"""How sure is a recipe's table of accuracies, over several seeds? Trains, exports and evaluates; times nothing.

    python benchmarks/seeds.py recipes/distillation.yaml --model path/to/encoder --data path/to/sst2 --out three.json

Everything is made by the program itself and kept in the store: run again, it goes on where it was, and with other
``--variants`` several of it may run at once. Every variant is held to ``--against`` on the same sentences of test with
the same seed, and the seeds are pooled as one crossed design, so that the interval speaks of other sentences and of
other seeds. ``--judge FOLDER`` judges on the test of other data than what was trained on: ``--data``, where GLUE's
phrases have none, chooses the epochs on the same sentences. ``--page FILE`` writes the table of a file that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.certainty.statistics import pooled
from toolchain.core.errors import ToolchainError
from toolchain.core.log import setup
from toolchain.core.store import Artifact, Store
from toolchain.measure.machine import environment
from toolchain.model.checkpoint import read_json
from toolchain.pipeline import keys, plan, run
from toolchain.pipeline import recipe as recipes

#: What is kept of what the techniques report, where it is a number.
KEPT = ("sqnr_db", "sqnr_before_db", "parameters", "kept", "made", "relabelled", "steps")


def collect(made: plan.Plan, outcome: run.Outcome) -> list[dict[str, Any]]:
    """A row for every engine that was evaluated."""
    rows = []
    for row in made.rows:
        if row.evaluate not in outcome.artifacts:
            continue
        evaluation = outcome.artifacts[row.evaluate]
        found = read_json(evaluation.path / "evaluation.json")
        right = np.load(evaluation.path / "probabilities_test.npy").argmax(1) == np.array(found["labels"]["test"])
        steps = _behind(made, row.evaluate)
        trained_on = (_machine(made, outcome.artifacts, step) for step in reversed(steps))
        metrics = {
            name: value
            for step in steps
            for name, value in outcome.artifacts[step].metrics.items()
            if name in KEPT and isinstance(value, int | float) and made.steps[step].stage in ("augment", "compress")
        }
        rows.append(
            {
                "model": row.model, "variant": row.variant, "engine": row.engine, "seed": row.seed,
                "dev_percent": 100 * found["splits"]["dev"]["accuracy"],
                "test_percent": 100 * float(right.mean()),
                "examples": len(right), "right": np.packbits(right).tobytes().hex(),
                "size_bytes": found["size_bytes"], "agreement": (found.get("parity") or {}).get("agreement"),
                "trained_on": next(filter(None, trained_on), "nothing"),
                "train_seconds": sum(_seconds(made, outcome.artifacts, step) for step in steps),
                "metrics": metrics,
            }
        )  # fmt: skip
    return rows


def _behind(made: plan.Plan, end: str) -> list[str]:
    """Ids of the steps that a step's result comes from by its first inputs, the first one first."""
    found = [end]
    while made.steps[found[-1]].inputs:
        found.append(made.steps[found[-1]].inputs[0])
    extra = [i for step in found for i in made.steps[step].inputs[1:] if made.steps[i].stage == "augment"]
    return [*extra, *reversed(found)]


def _machine(made: plan.Plan, artifacts: Mapping[str, Artifact], step: str) -> str:
    """What a step was trained on; empty where it trains nothing."""
    if made.steps[step].stage not in ("finetune", "compress"):
        return ""
    machine = artifacts[step].manifest["environment"]["machine"]
    return ", ".join(machine["gpus"]) or f"{machine['physical_cores']} cores of {machine['cpu']}"


def _seconds(made: plan.Plan, artifacts: Mapping[str, Artifact], step: str) -> float:
    own = made.steps[step].stage in ("finetune", "compress")
    return float(artifacts[step].manifest["duration_s"]) if own else 0.0


def _right(row: Mapping[str, Any]) -> NDArray[np.float64]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))
    return bits[: row["examples"]].astype(np.float64)


def summary(rows: Sequence[Mapping[str, Any]], against: Sequence[str]) -> list[dict[str, Any]]:
    """One line for every model, variant and engine, pooled over its seeds.

    Args:
        rows: As :func:`collect` gives them.
        against: Variants that the others of the model are held to, on the engine that they share.
    """
    by_name: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault((row["model"], row["variant"], row["engine"]), {})[row["seed"]] = row
    lines = []
    for (model, variant, engine), own in by_name.items():
        tests = [row["test_percent"] for row in own.values()]
        agreements = [row["agreement"] for row in own.values() if row["agreement"] is not None]
        line: dict[str, Any] = {
            "model": model, "variant": variant, "engine": engine, "seeds": sorted(own),
            "test_percent": float(np.mean(tests)), "spread": float(np.std(tests, ddof=1)) if len(tests) > 1 else None,
            "dev_percent": float(np.mean([row["dev_percent"] for row in own.values()])),
            "size_mb": float(np.median([row["size_bytes"] for row in own.values()])) / 1e6,
            "lowest_agreement": min(agreements, default=None),
            "metrics": _means([row["metrics"] for row in own.values()]),
        }  # fmt: skip
        for name in against:
            others = by_name.get((model, name, engine), {})
            seeds = sorted(set(own) & set(others))
            if seeds and name != variant:
                found = pooled(np.stack([_right(own[s]) - _right(others[s]) for s in seeds]))
                line[f"against {name}"] = [100 * value for value in (found.estimate, found.low, found.high)]
        lines.append(line)
    return lines


def _means(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for metrics in each for name in metrics)
    return {name: float(np.mean([metrics[name] for metrics in each if name in metrics])) for name in names}


def page(found: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    lines = found["lines"]
    against = [name for name in found["against"] if any(f"against {name}" in line for line in lines)]
    several, sqnr = len({line["model"] for line in lines}) > 1, any("sqnr_db" in line["metrics"] for line in lines)
    heads = [*(["model"] if several else []), "variant", "seeds", "test %", "± between seeds"]
    heads += [f"points against {name}" for name in against] + ["MB", "labels as the graph's"]
    heads += ["SQNR dB"] if sqnr else []
    rows = [f"| {' | '.join(heads)} |", f"|{' --- |' * (1 + several)}{' ---: |' * (len(heads) - 1 - several)}"]
    for line in lines:
        cells = [*([line["model"]] if several else []), line["variant"], str(len(line["seeds"]))]
        cells += [f"{line['test_percent']:.2f}", "" if line["spread"] is None else f"{line['spread']:.2f}"]
        for name in against:
            change = line.get(f"against {name}")
            cells.append("" if change is None else "{:+.2f} ({:+.2f} to {:+.2f})".format(*change))
        agreement = line["lowest_agreement"]
        cells += [f"{line['size_mb']:.1f}", "" if agreement is None else f"{100 * agreement:.1f} %"]
        if sqnr:
            after, before = (line["metrics"].get(name) for name in ("sqnr_db", "sqnr_before_db"))
            cells.append("" if after is None or before is None else f"{after:.1f} (untrained {before:.1f})")
        rows.append(f"| {' | '.join(cells)} |")
    seeds = sorted({seed for line in lines for seed in line["seeds"]})
    trainers = " and ".join(sorted({row["trained_on"] for row in found["rows"]}))
    settings = ", ".join(f"`{setting}`" for setting in found["settings"]) or "none"
    counts = " or ".join(f"{count:,}" for count in sorted({row["examples"] for row in found["rows"]}))
    elsewhere = f" Judged on {counts} sentences of a file of their own (`--judge`), which no epoch was chosen by."
    rows += [
        "",
        f"Engines that ran: `{found['recipe']}`, seeds {', '.join(map(str, seeds))}, trained on {trainers}. "
        "Differences are paired by sentence and seed, with 95 % intervals for other sentences and, where there are "
        "several, other seeds, as far as these differ by more than their sentences explain; a row of fewer seeds is "
        "held to those. Labels: how many are those of the graph that the engine was built from, on 192 sentences, the "
        f"least of the seeds. Settings beside the recipe's: {settings}."
        + (elsewhere if found.get("judged_elsewhere") else ""),
        "",
    ]
    return "\n".join(rows)


def write(out: Path, found: dict[str, Any]) -> None:
    """Writes the JSON file and its table beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    found["lines"] = summary(found["rows"], found["against"])
    out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    out.with_suffix(".md").write_text(page(found), "utf-8")


def main() -> int:
    """Runs, pools and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path, nargs="?", help="recipe file")
    parser.add_argument("--model", action="append", default=[], help="as of toolchain run")
    parser.add_argument("--data", type=Path, help="as of toolchain run")
    parser.add_argument("--judge", type=Path, help="data to judge on, where --data has no test of its own")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="as of toolchain run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 42, 1234])
    parser.add_argument("--variants", nargs="+", help="only these, or MODEL/VARIANT, and the baseline's; default: all")
    parser.add_argument("--against", nargs="+", help="variants that the others are held to [the baseline's]")
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--out", type=Path, default=Path("seeds.json"))
    parser.add_argument("--found", action="store_true", help="tell of what the store has, and run nothing")
    parser.add_argument("--page", type=Path, help="write the table of this JSON file again, and run nothing")
    given = parser.parse_args()
    against = list(dict.fromkeys(given.against or ()))
    if given.page:
        try:
            kept = json.loads(given.page.read_text("utf-8"))
            known = [row["variant"] for row in kept["rows"]]
            _known(parser, against, known)
            write(given.page, kept | {"against": against or kept["against"]})
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"--page {given.page}: no file that this has written ({error!r})")
        return 0
    if given.recipe is None:
        parser.error("a recipe is needed")
    _writable(parser, given.out)
    setup(0)
    run.quiet_libraries()
    try:
        data = str(given.data.resolve()) if given.data else None
        recipe = recipes.load(given.recipe, [f"seeds={given.seeds}", *given.overrides], given.model, data)
        _known(parser, against, [name for _, name in recipe.variants])
        made = plan.make(recipe, "evaluate", given.variants or ())
        store = Store(given.store)
        judge = _judge(parser, given, keys.Task(recipe)) if given.judge else None
        outcome = run.preview(made, store, judge=judge)[0] if given.found else run.execute(made, store, judge=judge)
    except ToolchainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for failure in dict.fromkeys(outcome.failed.values()):
        print("failed:", failure, file=sys.stderr)
    rows, against = collect(made, outcome), against or [recipe.baseline[0]]
    if len(rows) < len(made.rows):
        print(f"{len(rows)} of {len(made.rows)} engines were evaluated, by {given.store}", file=sys.stderr)
    if not rows:
        print(f"nothing to tell of: {given.out} is not written", file=sys.stderr)
        return outcome.exit_code or 1
    for name in against:
        if name not in {row["variant"] for row in rows}:
            print(f"--against {name}: not among them, and nothing is held to it", file=sys.stderr)
    found = {
        "recipe": recipe.name, "against": against, "environment": environment(), "settings": given.overrides,
        "judged_elsewhere": bool(given.judge), "rows": rows,
    }  # fmt: skip
    write(given.out, found)
    print(given.out.with_suffix(".md").read_text("utf-8"))
    return outcome.exit_code


def _known(parser: argparse.ArgumentParser, against: Sequence[str], known: Sequence[str]) -> None:
    """Refuses a variant that there is not."""
    if unknown := [name for name in against if name not in known]:
        parser.error(f"--against {unknown[0]}: no such variant; known: {', '.join(sorted(set(known)))}")


def _writable(parser: argparse.ArgumentParser, out: Path) -> None:
    """Refuses before any work what cannot be written after it."""
    if out.suffix == ".md":
        parser.error(f"--out {out}: name the JSON file; the table is written beside it, as .md")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        parser.error(f"--out {out}: cannot be written: {error.strerror or error}")
    for path in (out, out.with_suffix(".md")):
        if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
            parser.error(f"--out {path}: is {'a folder' if path.is_dir() else 'read-only'}; name another JSON file")


def _judge(parser: argparse.ArgumentParser, given: argparse.Namespace, trained: keys.Task) -> keys.Task:
    """What is judged on, read before anything is trained."""
    if not given.judge.is_dir():
        parser.error(f"--judge {given.judge}: no such folder")
    task = keys.Task(recipes.load(given.recipe, given.overrides, given.model, str(given.judge.resolve())))
    if task.identity == trained.identity:
        parser.error(f"--judge {given.judge}: is what is trained on; leave --judge out, or the task out of --set")
    if task.data().test.texts == task.data().dev.texts:
        parser.error(f"--judge {given.judge}: has no test of its own")
    return task


if __name__ == "__main__":
    sys.exit(main())
