"""A report as files: Markdown for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.core import foreign
from toolchain.deliver.report import front, kept, page, text
from toolchain.deliver.report.build import Report
from toolchain.deliver.report.figures import (
    LABEL,
    Figures,
    figures,
    key,
    pooled_figures,
    quantity,
    ratio,
    share_of_weights,
    show,
    state,
)
from toolchain.deliver.report.footnotes import footnotes, not_worse_head, title
from toolchain.deliver.report.lengths import by_length, span
from toolchain.deliver.report.limits import rule
from toolchain.deliver.report.metric import as_json
from toolchain.deliver.report.scenarios import scenarios, told
from toolchain.deliver.report.standing import standing
from toolchain.measure.gates import GATES, Verdict
from toolchain.pipeline.settings import plain

#: How a verdict stands in a table.
STATE_CELLS = {"passed": "passed", "failed": "**failed**", "not run": "not run", LABEL: LABEL}


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON values: every figure of every line, and what was timed, round by round."""
    lines, metric = _lines(report), report.kind.METRIC
    told: dict[str, Any] = _finite(
        {
            "name": report.name,
            "metric": as_json(metric),
            "split": report.split,
            "weights": dict(report.weights),
            "speedup": report.speedup,
            "margin": report.margin,
            "limits": plain(report.limits),
            "rule": rule(report.limits, metric),
            "machine": dict(report.machine),
            "settings": dict(report.settings),
            "lines": lines,
            "winner": winner_json(report),
            "fronts": [dataclasses.asdict(front) for front in report.fronts],
            "pooled": [pooled_figures(engine, report.batches) for engine in report.pooled],
            "recommendations": [
                {"goal": found.goal, "name": found.name, "reason": found.reason} for found in report.recommendations
            ],
            "not_applicable": [{"name": name, "reason": reason} for name, reason in report.not_applicable],
            "not_run": [{"name": name, "reason": reason} for name, reason in report.not_run],
            "failed": [{"name": name, "error": error} for name, error in report.failed],
            "notes": list(report.notes),
            "made": dict(report.made),
            "test_set": _test_set(report),
            "scenarios": scenarios(lines, rule(report.limits, metric), metric),
            "lengths": by_length(report.lines, report.split),
        }
    )
    return told


def _lines(report: Report) -> list[dict[str, Any]]:
    """Every figure of every line, its verdicts, and what was timed."""
    ranked = sum(line.rank is not None for line in report.lines)
    return [
        {
            **figures(line, report.batches),
            "marks": list(line.marks),
            "barred": list(line.barred),
            "engine_key": line.row.engine_key,
            "techniques": list(line.row.techniques),
            "settings": dict(line.row.settings),
            "standing": list(standing(line, ranked, report.weights, report.speedup, report.recommendations)),
            "gates": [verdict_json(verdict) for verdict in line.gates],
            "timing": line.row.timing,
        }
        for line in report.lines
    ]


def winner_json(report: Report) -> dict[str, Any] | None:
    """The winner as plain JSON values; a weight without an upper bound is None."""
    winner = report.winner
    return None if winner is None else {**dataclasses.asdict(winner), "settled": winner.settled}


def _test_set(report: Report) -> str | None:
    """What tells the examples of one report from those of another: a digest of their labels, in order."""
    labels = next((line.evaluation["labels"][report.split] for line in report.lines), None)
    return None if labels is None else hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16]


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain JSON values."""
    return {
        "gate": verdict.gate,
        "verdict": state(verdict),
        "passed": verdict.passed,
        "evidence": verdict.evidence,
        "reason": verdict.reason,
        "label": verdict.label,
    }


def csv_text(report: Report) -> str:
    """One row per engine with every figure, unrounded; an empty cell is a figure that there is not."""
    rows = [figures(line, report.batches) for line in report.lines]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: foreign.cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def markdown(report: Report) -> str:
    """The ranked table, one table each on the metric, size and time, and what is to be known about them."""
    found, asked = [figures(line, report.batches) for line in report.lines], rule(report.limits, report.kind.METRIC)
    blocks = [f"# {title(report)}", _ranking(report, found)]
    if report.recommendations:
        chosen = [f"- **{item.goal}**: `{item.name}` ({item.reason})" for item in report.recommendations]
        blocks += ["## What to ship", f"Of engines that no gate bars, with {asked}:", "\n".join(chosen)]
    if report.winner:
        blocks += ["## How sure the ranking is", _certainty(report, found), _fronts(report)]
    where = scenarios(_finite(_lines(report)), asked, report.kind.METRIC)
    if where:
        blocks += ["## Where to deploy what", "\n".join(told(where))]
    blocks += [f"## {report.kind.METRIC.title} against the baseline", _accuracy(report, found)]
    if report.pooled:
        blocks += ["## Over the seeds", _pooled(report)]
    blocks += ["## Size and memory", _size(found)]
    if any(row["training_minutes"] is not None for row in found):
        blocks += ["## What it took to train", _training(found)]
    for setting in report.batches:
        if setting == "batch 1":
            blocks += ["## Latency at batch 1, ms", _latency(found)]
        else:
            blocks += [f"## Sentences per second at {setting}", _throughput(found, setting)]
    lengths = by_length(report.lines, report.split)
    if lengths:
        blocks += ["## By length of the text", _lengths(report, lengths)]
    if any(row[f"energy_j_{key(setting)}"] is not None for row in found for setting in report.batches):
        blocks += ["## Energy per example, J", _energy(report, found)]
    if found:
        blocks += ["## Gates", _gates(found), _evidence(report)]
    notes = (f"- **{label}**: {' '.join(text.split())}" for label, text in footnotes(report))
    blocks += ["## How to read this", "\n".join(notes)]
    return foreign.markdown("\n\n".join(blocks) + "\n")


def write(report: Report, folder: Path) -> None:
    """Writes ``report.md``, ``.csv``, ``.json`` and ``.html`` into a folder, and the figures as pictures.

    The pictures are ``accuracy.svg``, ``size.svg``, ``parallel.svg`` and, of timed engines, ``front.svg``. The folder
    is made when it is missing; a ``sensitivity.svg`` that lies there is shown in the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    (folder / "report.csv").write_text(csv_text(report), encoding="utf-8")
    found = to_json(report)
    (folder / kept.REPORT).write_text(kept.text(found), encoding="utf-8")
    rows = [figures(line, report.batches) for line in report.lines]
    picture = front.draw(title(report), rows, report.speedup, report.kind.METRIC)
    (folder / "front.svg").unlink(missing_ok=True)  # of another run
    if picture is not None:
        (folder / "front.svg").write_text(picture, encoding="utf-8")
    page.write(found, folder)


def _ranking(report: Report, rows: Sequence[Figures]) -> str:
    batches = [setting for setting in report.batches if setting != "batch 1"]
    heads = ["#", "engine", report.kind.METRIC.heading, "size MB", "times smaller", "ms a text", "times faster"]
    heads += [head for setting in batches for head in (f"texts/s {setting}", f"times faster {setting}")]
    cells = []
    for row in rows:
        name = f"**{row['name']}**" if row["baseline"] else str(row["name"])
        speeds = [quantity(row.get("latency_engine_p50_ms")), ratio(row.get("speedup_batch_1"))]
        for setting in batches:
            named = key(setting)
            speeds += [show(row[f"per_s_sorted_engine_{named}"]), ratio(row[f"speedup_{named}"])]
        rank = ("≈ " if row["tied_with_previous"] else "") + show(row["rank"])
        marks = ", ".join(filter(None, (str(row["marks"]), "not timed" if row["error"] else "")))
        size = [quantity(row["size_mb"]), ratio(row["compression"])]
        cells.append([rank, name, _ranged(row, "accuracy_percent"), *size, *speeds, show(row["score"], 2), marks])
    return _table([*heads, "score", "marks"], cells)


def _certainty(report: Report, rows: Sequence[Figures]) -> str:
    """Ranks that the data leave open, ties with the winner, what the weights decide, and what nothing beats."""
    winner = report.winner
    ties = {winner.name, *winner.tied} if winner and winner.tied else set()
    cells = [
        [
            str(row["name"]),
            show(row["rank"]),
            f"{show(row['rank_low'])} to {show(row['rank_high'])}",
            "tied for first" if row["name"] in ties else "",
            share_of_weights(row["weights_share"]),
            "yes" if row["unbeaten"] else "",
        ]
        for row in rows
        if row["rank"] is not None
    ]
    return _table(["engine", "#", "rank, 95 %", "winner", "first under, % of all weights", "nothing beats it"], cells)


def _fronts(report: Report) -> str:
    """What nothing beats, for every model and seed."""
    return "\n".join(
        f"- nothing beats {', '.join(f'`{name}`' for name in front.engines)} in {report.kind.METRIC.name}, size and "
        f"speed at {report.speedup} together ({front.model and f'{front.model}, '}seed {front.seed})"
        for front in report.fronts
    )


def _pooled(report: Report) -> str:
    """Engines over their seeds: what holds for other seeds too."""
    rows = [pooled_figures(engine, report.batches) for engine in report.pooled]
    heads = [
        "#", "engine", "seeds", report.kind.METRIC.heading, "± between seeds", "change, points",
        not_worse_head(report), "size MB",
    ]  # fmt: skip
    cells = [
        [
            ("≈ " if row["tied_with_first"] else "") + show(row["rank"]),
            f"**{row['name']}**" if row["baseline"] else str(row["name"]),
            show(len(row["seeds"])),
            show(row["accuracy_percent"], 2),
            show(row["accuracy_spread_points"], 2),
            _ranged(row, "accuracy_change_points", sign=True),
            show(row["not_worse"]),
            quantity(row["size_mb"]),
            *(_ranged(row, f"speedup_{key(setting)}") for setting in report.batches),
            show(row["score"], 2),
            ", ".join(row["barred"]),
        ]
        for row in rows
    ]
    last = ["score", "may not be shipped"] if any(row["barred"] for row in rows) else ["score"]
    heads += [*(f"times faster {setting}" for setting in report.batches), *last]
    return _table(heads, [row[: len(heads)] for row in cells])


def _accuracy(report: Report, rows: Sequence[Figures]) -> str:
    metric = report.kind.METRIC
    heads = ["engine", metric.heading, "change, points", not_worse_head(report)]
    heads += ["p-value (McNemar)", "p-value, all engines (Holm)"] if metric.binary else []
    heads += [f"{report.kind.WORDS[1]} changed", "examples"]
    told = {line.name: str(line.not_worse or "-") for line in report.lines}
    cells = [
        [
            str(row["name"]),
            _ranged(row, "accuracy_percent"),
            _ranged(row, "accuracy_change_points", sign=True),
            told[str(row["name"])],
            *([_p_value(row, "mcnemar_p"), _p_value(row, "mcnemar_p_holm")] if metric.binary else []),
            show(row["label_flips"]),
            show(row["examples"]),
        ]
        for row in rows
    ]
    return _table(heads, cells)


def _size(rows: Sequence[Figures]) -> str:
    heads = ["engine", "size MB", "engine's own files MB", "these by zstd MB", "parameters M", "MFLOP/example"]
    heads += ["load s", "peak memory MB"]
    names = ("size_mb", "engine_files_mb", "zstd_mb", "parameters_m", "flops_per_example_m", "load_s", "peak_memory_mb")
    return _table(heads, [[str(row["name"]), *(quantity(row[name]) for name in names)] for row in rows])


def _training(rows: Sequence[Figures]) -> str:
    """Steps and time of fine-tuning and compression, and where they were spent."""
    heads = ["engine", "steps", "minutes", "machine"]
    cells = [
        [str(row["name"]), show(row["training_steps"]), show(row["training_minutes"], 1), show(row["training_machine"])]
        for row in rows
    ]
    return _table(heads, cells)


def _latency(rows: Sequence[Figures]) -> str:
    heads = ["engine", "p50", "p90", "p99", "with tokenizer: p50", "p90", "p99"]
    heads += ["times faster", "times faster with tokenizer"]
    names = [f"latency_{scope}_{p}_ms" for scope in ("engine", "end_to_end") for p in ("p50", "p90", "p99")]
    cells = [
        [
            str(row["name"]),
            *(quantity(row[name]) for name in names),
            _ranged(row, "speedup_batch_1"),
            _ranged(row, "speedup_end_to_end_batch_1"),
        ]
        for row in rows
    ]
    return _table(heads, cells)


def _throughput(rows: Sequence[Figures], setting: str) -> str:
    heads = ["engine", "sorted by length", "data order", "with tokenizer: sorted", "data order"]
    heads += ["times faster", "times faster with tokenizer"]
    at = key(setting)
    names = [f"per_s_{order}_{scope}_{at}" for scope in ("engine", "end_to_end") for order in ("sorted", "data_order")]
    cells = [
        [
            str(row["name"]),
            *(show(row[name]) for name in names),
            _ranged(row, f"speedup_{at}"),
            _ranged(row, f"speedup_end_to_end_{at}"),
        ]
        for row in rows
    ]
    return _table(heads, cells)


def _lengths(report: Report, found: dict[str, Any]) -> str:
    """The metric and latency of each engine in groups of examples."""
    groups, metric = found["groups"], report.kind.METRIC
    heads = ["engine", *(f"{metric.unit or metric.name} at {span(group)}" for group in groups)]
    heads += [f"ms at {span(group)}" for group in groups]
    cells = [
        [
            line.name,
            *(show(cell["accuracy_percent"], 2) for cell in engine),
            *(quantity(cell["latency_ms"]) for cell in engine),
        ]
        for line, engine in zip(report.lines, found["engines"], strict=True)
    ]
    many = ", ".join(str(group["examples"]) for group in groups)
    return _table(heads, cells) + (
        f"\n\nTokens as {found['of']} counts them, and the same examples for every engine: {many}. ms: what they take "
        "at batch 1, by the engine's own tokens of each and the times of texts of about that length."
    )


def _energy(report: Report, rows: Sequence[Figures]) -> str:
    keys = [f"energy_j_{key(setting)}" for setting in report.batches]
    cells = [[str(row["name"]), *(quantity(row[key]) for key in keys)] for row in rows]
    return _table(["engine", *report.batches], cells)


def _gates(rows: Sequence[Figures]) -> str:
    names = [f"gate_{gate.replace(' ', '_')}" for gate in GATES]
    cells = [[str(row["name"]), *(STATE_CELLS[str(row[name])] for name in names)] for row in rows]
    return _table(["engine", *GATES], cells)


def _evidence(report: Report) -> str:
    """Every gate of every engine, with the numbers that decided it, or why it was not run."""
    cells = [
        [line.name, verdict.gate, STATE_CELLS[state(verdict)], verdict.evidence]
        for line in report.lines
        for verdict in line.gates
    ]
    return _table(["engine", "gate", "verdict", "evidence"], cells)


def _ranged(row: Figures, name: str, *, sign: bool = False) -> str:
    """An estimate with its interval in brackets."""
    if row.get(name) is None:
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{show(row[name], 2, sign=sign)} [{show(low, 2, sign=sign)}, {show(high, 2, sign=sign)}]"


def _p_value(row: Figures, name: str) -> str:
    value = row[name]
    return "< 0.001" if isinstance(value, float) and value < 0.001 else show(value, 3)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: names to the left, numbers to the right."""
    left = {"engine", "marks", "machine", "gate", "verdict", "evidence", "winner", "nothing beats it", *GATES}
    return text.table(heads, rows, left | {head for head in heads if head.startswith("at most ")})


def _finite(value: Any) -> Any:
    """The same value with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
