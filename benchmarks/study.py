"""Holds a run of ``recipes/sst2-study.yaml`` to the table of the study that it repeats.

    python benchmarks/study.py artifacts/published/sst2-study

reads ``report.json`` there for sizes and times and ``seeds.json`` (of ``benchmarks/seeds.py``) for accuracies over
several seeds, and writes ``study.md`` beside them: every compressed row of the study with what was measured of the
engine in its place, and what the rows do together. A figure beats the study's where it is better as measured;
accuracies are changes against the row's own base, in points. Nothing is run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.deliver.report.figures import key, quantity, ratio, show


@dataclass(frozen=True)
class Told:
    """A row of the study's Table 1.

    Attributes:
        accuracy: Percent, on SST-2.
        size_mb: Megabytes.
        speedup: On its GPU, against the same model's base.
    """

    accuracy: float
    size_mb: float
    speedup: float


#: The study's Table 1, under the names that the recipe has for its rows.
TABLE: dict[str, dict[str, Told]] = {
    "bert": {
        "base": Told(92.75, 154.32, 1), "quantized": Told(91.90, 66.75, 1.84), "pruned": Told(90.33, 97.62, 1.37),
        "distilled": Told(92.44, 129.84, 1.13),
    },
    "albert": {
        "base": Told(92.31, 38.47, 1), "quantized": Told(90.07, 17.86, 2.72), "pruned": Told(87.84, 29.98, 1.36),
        "distilled": Told(91.98, 31.75, 1.28),
    },
    "roberta": {
        "base": Told(93.25, 107.18, 1), "quantized": Told(91.71, 51.45, 2.04), "pruned": Told(92.45, 87.26, 1.35),
        "distilled": Told(92.78, 91.84, 1.12),
    },
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page.

    Args:
        arguments: Those of the command line.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="report.json and seeds.json")
    folder = parser.parse_args(arguments).folder
    try:
        (folder / "study.md").write_text(page(*read(folder)), "utf-8")
    except (OSError, ValueError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return 1
    return 0


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``report.json`` and ``seeds.json`` of a folder."""
    report, seeds = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("report", "seeds"))
    return report, seeds


def page(report: Mapping[str, Any], seeds: Mapping[str, Any]) -> str:
    """The comparison in Markdown.

    Args:
        report: Of one seed, whose engines were timed.
        seeds: Accuracies of the same variants over several.

    Raises:
        ValueError: The report is of several seeds, or a row of the study was not run or not timed.
    """
    setting = report["speedup"]
    timed, judged = _rows(report, setting), {(line["model"], line["variant"]): line for line in seeds["lines"]}
    if missing := sorted({key for key in timed if key not in judged}):
        raise ValueError(f"seeds.json lacks {', '.join(' '.join(key) for key in missing)}")
    heads = ["row", "CR", "study", f"IS {setting}", "IS batch 1", "study", "change, points", "study"]
    heads += ["better", "change above the study's"]
    rows = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 3)} --- | --- |"]
    beaten = dict.fromkeys(("size", "speed", "accuracy"), 0)
    compressed = [(model, name) for model, found in TABLE.items() for name in found if name != "base"]
    for model, name in compressed:
        base, told, line = TABLE[model]["base"], TABLE[model][name], timed[model, name]
        change, low, high = judged[model, name]["against base"]
        theirs = told.accuracy - base.accuracy
        won = {
            "size": line["compression"] > base.size_mb / told.size_mb,
            "speed": line[f"speedup_{key(setting)}"] > told.speedup,
            "accuracy": change > theirs,
        }
        beaten = {figure: beaten[figure] + won[figure] for figure in beaten}
        cells = [
            f"{model} {name}",
            ratio(line["compression"]), ratio(base.size_mb / told.size_mb),
            ratio(line[f"speedup_{key(setting)}"]), ratio(line["speedup_batch_1"]), ratio(told.speedup),
            _interval(change, low, high), show(theirs, 2, sign=True),
            ", ".join(figure for figure in won if won[figure]), _sure(low, high, theirs),
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    together = [name for model, name in judged if model == "bert" and name not in TABLE["bert"]]
    heads = ["together", "accuracy %", "change, points", "MB", "CR", "ms @1", "IS batch 1", f"IS {setting}"]
    rows += ["", f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for model in TABLE:
        for name in together:
            line, own = timed[model, name], judged[model, name]
            cells = [
                f"{model} {name}", show(own["test_percent"], 2), _interval(*own["against base"]),
                quantity(line["size_mb"]), ratio(line["compression"]), quantity(line["latency_engine_p50_ms"]),
                ratio(line["speedup_batch_1"]), ratio(line[f"speedup_{key(setting)}"]),
            ]  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", _note(report, seeds, beaten, len(compressed)), ""])


def _rows(report: Mapping[str, Any], setting: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Lines by model and variant, of which the study's are all there and timed."""
    several = sorted({line["seed"] for line in report["lines"]})
    if len(several) > 1:
        raise ValueError(f"the report has seeds {several}: make it of one, with --set 'seeds=[17]'; seeds.json has all")
    found = {(line["model"], line["variant"]): line for line in report["lines"]}
    wanted = [(model, name) for model, rows in TABLE.items() for name in rows]
    figures = ("compression", f"speedup_{key(setting)}", "speedup_batch_1")
    lacking = [" ".join(each) for each in wanted if any(found.get(each, {}).get(name) is None for name in figures)]
    if lacking:
        raise ValueError(f"the report lacks {', '.join(lacking)}, or their times at {setting}")
    return found


def _note(report: Mapping[str, Any], seeds: Mapping[str, Any], beaten: Mapping[str, int], rows: int) -> str:
    """How many figures are better than the study's, and what all of them are of."""
    machine, first = report["machine"], report["lines"][0]
    trained = sorted({seed for line in seeds["lines"] for seed in line["seeds"]})
    return (
        f"Better than the study's as measured: size ratio {beaten['size']} of {rows}, speedup {beaten['speed']}, "
        f"change of accuracy {beaten['accuracy']}. CR and IS: of seed {first['seed']}, on {machine['cpu']}, "
        f"{machine['physical_cores']} cores, {report['settings']['threads']} threads, sentences sorted by length; the "
        f"study's speedup is of a GPU. Changes: on {first['examples']:,} {report['split']} examples against the row's "
        f"own base, seeds {', '.join(map(str, trained))}, with 95 % intervals for other examples and, where there are "
        "several, other seeds. Above the study's: yes where the whole interval is above its figure, no where all of it "
        "is below; the study tells no interval of its own."
    )


def _interval(value: float, low: float, high: float) -> str:
    return f"{show(value, 2, sign=True)} ({show(low, 2, sign=True)} to {show(high, 2, sign=True)})"


def _sure(low: float, high: float, theirs: float) -> str:
    """What the interval says of the study's change."""
    return "yes" if low > theirs else "no" if high < theirs else "open"


if __name__ == "__main__":
    sys.exit(main())
