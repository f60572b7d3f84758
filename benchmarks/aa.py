"""One engine under two names, timed again and again: how often is a difference found that is not there?

    python benchmarks/aa.py recipes/quickstart.yaml --repetitions 40

The recipe's baseline is made and evaluated (or found in the store), and then timed against itself as a recipe's
engines are: one process each, in interleaved, shuffled rounds, with the recipe's ``benchmark`` settings. Every
repetition starts new processes and has another seed, for the sample of texts and the order of the rounds. Each timing
goes into a report of two rows, the second of which claims to be compressed. What the report then says of speed, winner
and recommendation is counted: all of it is false. Stopped, it goes on where it was: ``aa.json`` and ``aa.md`` are
written after every repetition.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain.certainty.statistics import wilson
from toolchain.core.errors import ToolchainError
from toolchain.core.log import logger, setup
from toolchain.core.processors import physical_cores
from toolchain.core.stage import Context
from toolchain.core.store import Store
from toolchain.deliver.report import Row, build_report, to_json
from toolchain.measure.machine import environment, machine
from toolchain.measure.timing import TIMING_FILE, time_engines
from toolchain.pipeline import plan, run
from toolchain.pipeline import recipe as recipes
from toolchain.pipeline.settings import plain

#: The two names.
BASE, TWIN = "one", "other"

#: What is counted of every repetition, and how the page calls it.
COUNTED = {
    "excludes_1": "the interval of IS excludes 1",
    "called_faster": "the twin is called faster than itself",
    "called_slower": "the twin is called slower than itself",
}


def prepare(recipe: recipes.Recipe, store: Store) -> tuple[plan.Row, Path, Path, Any]:
    """The recipe's baseline: its row, engine folder, evaluation folder, and the task's data.

    Raises:
        ToolchainError: It cannot be built.
    """
    variant, engine = recipe.baseline
    kept = {key: items for key, items in list(recipe.variants.items()) if key[1] == variant}
    model = next(iter(kept))[0]
    engines = tuple(item for item in recipe.engines if item.label == engine)
    narrowed = replace(
        recipe, variants={(model, variant): kept[model, variant]}, engines=engines, seeds=recipe.seeds[:1]
    )
    made = plan.make(narrowed, "evaluate")
    outcome = run.execute(made, store)
    for failure in dict.fromkeys(outcome.failed.values()):
        raise ToolchainError(f"the baseline cannot be made: {failure}")
    row = made.rows[0]
    return row, outcome.artifacts[row.build].path, outcome.artifacts[row.evaluate].path, outcome.task.data


def repetition(
    row: plan.Row, engine: Path, evaluation: Path, recipe: recipes.Recipe, data: Any, seed: int
) -> dict[str, Any]:
    """Times the engine against itself once; what the report says of it."""
    threads = recipe.benchmark.threads or physical_cores()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aa-") as name:
        context = Context(work=Path(name), seed=seed, threads=threads, dataset=data)
        metrics = time_engines({BASE: engine, TWIN: engine}, Path(name), recipe.benchmark, context)
        record = json.loads((Path(name) / TIMING_FILE).read_text("utf-8"))
    rows = [
        Row(
            model=row.model, variant=name, engine=row.engine, seed=row.seed, engine_key=name, evaluation=evaluation,
            timing=record["engines"][name], baseline=name == BASE,
            techniques=row.techniques if name == BASE else (*row.techniques, "renamed"),
        )
        for name in (BASE, TWIN)
    ]  # fmt: skip
    settings = recipe.report
    report = build_report(
        rows, weights=plain(settings.weights), speedup=settings.speedup, split=settings.split, margin=settings.margin
    )
    told = to_json(report)
    twin = next(line for line in told["lines"] if line["variant"] == TWIN)
    keys = {setting: setting.replace(" ", "_") for setting in report.batches}
    return {
        "seed": seed,
        "speedups": {
            f"{setting}{scope and ' end to end'}": [twin[f"speedup{scope}_{key}{end}"] for end in ("", "_low", "_high")]
            for setting, key in keys.items()
            for scope in ("", "_end_to_end")
        },
        "winner": told["winner"]["name"] if told["winner"]["settled"] else None,
        "shipped_for_speed": [
            item["goal"]
            for item in told["recommendations"]
            if item["goal"].startswith("fastest") and item["name"] == twin["name"]
        ],
        "open": metrics["open"],
        "rounds": metrics["rounds"],
        "others_cpus": metrics["others_cpus"],
        "seconds": time.monotonic() - started,
    }


def summary(repetitions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often what was said was false, with 95 % Wilson intervals.

    Args:
        repetitions: As :func:`repetition` gives them; at least one.
    """
    total = len(repetitions)
    settings: dict[str, Any] = {}
    for setting in repetitions[0]["speedups"]:
        found = [each["speedups"][setting] for each in repetitions]
        faster, slower = sum(low > 1 for _, low, _ in found), sum(high < 1 for *_, high in found)
        counts = {"excludes_1": faster + slower, "called_faster": faster, "called_slower": slower}
        settings[setting] = {
            **{name: _share(count, total) for name, count in counts.items()},
            "largest_error": max(abs(estimate - 1) for estimate, *_ in found),
        }
    return {
        "repetitions": total,
        "settings": settings,
        "winner_named": _share(sum(each["winner"] is not None for each in repetitions), total),
        "shipped_for_speed": _share(sum(bool(each["shipped_for_speed"]) for each in repetitions), total),
    }


def _share(count: int, total: int) -> dict[str, Any]:
    interval = wilson(count, total)
    return {"count": count, "share": interval.estimate, "low": interval.low, "high": interval.high}


def page(found: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    told = found["summary"]
    heads = ["setting", *COUNTED.values(), "largest error of IS"]
    rows = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for setting, counted in told["settings"].items():
        cells = [setting, *(_told(counted[name], told["repetitions"]) for name in COUNTED)]
        rows.append(f"| {' | '.join(cells)} | {100 * counted['largest_error']:.1f} % |")
    made, bench = found["environment"]["machine"], found["benchmark"]
    busy = sum((each["others_cpus"] or 0) > 0.25 for each in found["repetitions"])
    return "\n".join(
        [
            f"# One engine under two names, timed {told['repetitions']} times",
            "",
            *rows,
            "",
            f"- a winner was named in {_told(told['winner_named'], told['repetitions'])}",
            f"- the twin was recommended for speed in {_told(told['shipped_for_speed'], told['repetitions'])}",
            "",
            f"`{found['recipe']}`, engine {found['engine']}, {_rounds(found)} rounds, {bench['seconds']:g} s per "
            f"engine and setting, {found['threads']} threads, {made['physical_cores']} cores of {made['cpu']}. In "
            f"{busy} repetitions other programs took more than a quarter of a CPU. Shares with 95 % Wilson intervals. "
            "All of it is false: the two are one engine.",
            "",
        ]
    )


def _rounds(found: Mapping[str, Any]) -> str:
    """How many rounds the repetitions took; records of before rounds went on until settled have the setting alone."""
    counts = sorted(each.get("rounds", found["benchmark"]["rounds"]) for each in found["repetitions"])
    return f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _told(share: Mapping[str, Any], total: int) -> str:
    return f"{share['count']} of {total} ({100 * share['low']:.1f} to {100 * share['high']:.1f} %)"


def main() -> int:
    """Times, counts and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path, nargs="?", help="recipe file, whose baseline is timed")
    parser.add_argument("--model", action="append", default=[], help="as of toolchain run")
    parser.add_argument("--data", type=Path, help="as of toolchain run")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="as of toolchain run")
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--out", type=Path, default=Path("artifacts/published/aa/aa.json"))
    parser.add_argument("--page", type=Path, help="write the page of this JSON file again, and time nothing")
    given = parser.parse_args()
    if given.page:
        write(given.page, json.loads(given.page.read_text("utf-8")))
        return 0
    if given.recipe is None:
        parser.error("a recipe is needed")
    setup(0)
    run.quiet_libraries()
    try:
        data = str(given.data.resolve()) if given.data else None
        recipe = recipes.load(given.recipe, given.overrides, given.model, data)
        row, engine, evaluation, dataset = prepare(recipe, Store(given.store))
        head = {
            "recipe": recipe.name, "engine": row.name, "engine_key": engine.name, "benchmark": plain(recipe.benchmark),
            "threads": recipe.benchmark.threads or physical_cores(), "machine": machine(),
        }  # fmt: skip
        found = {**head, "environment": environment(), "repetitions": kept(given.out, head)}
        for seed in range(len(found["repetitions"]), given.repetitions):
            found["repetitions"].append(repetition(row, engine, evaluation, recipe, dataset, seed))
            write(given.out, found)
            last = found["repetitions"][-1]
            logger.info("[%d/%d] %.0f s, winner: %s", seed + 1, given.repetitions, last["seconds"], last["winner"])
    except ToolchainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(given.out.with_suffix(".md").read_text("utf-8"))
    return 0


def kept(out: Path, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The repetitions that a file has of the same engine, settings and machine."""
    if not out.is_file():
        return []
    found = json.loads(out.read_text("utf-8"))
    same = all(found.get(name) == json.loads(json.dumps(value)) for name, value in head.items())
    return list(found["repetitions"]) if same else []


def write(out: Path, found: dict[str, Any]) -> None:
    """Writes the JSON file and its page beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    found["summary"] = summary(found["repetitions"])
    out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    out.with_suffix(".md").write_text(page(found), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
