"""A comparison of runs as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.core import foreign
from toolchain.deliver.report.figures import key, quantity, ratio, show
from toolchain.deliver.report.metric import of_report
from toolchain.deliver.report.text import table

#: Columns of words.
LEFT = {"run", "engine", "machine", "command", "gates", "engines", "nothing is smaller and as right"}


def markdown(comparison: Mapping[str, Any]) -> str:
    """The comparison: runs, accuracy and size by test set, times by machine, and engines that several runs have.

    Args:
        comparison: What ``compare`` gave.
    """
    blocks = [f"# {heading(comparison)}", "\n".join(f"- {rule}" for rule in comparison["rules"])]
    blocks += ["## Runs", _runs(comparison)]
    for test_set in comparison["test_sets"]:
        rows = by_accuracy(comparison, test_set)
        blocks += [f"## {of_report(test_set).title} and size: {test_set['told']}", _accuracy(rows, test_set)]
    for machine in comparison["machines"]:
        blocks += [f"## Times: {machine['told']}", _times(comparison, machine)]
    if comparison["same"]:
        blocks += ["## Engines of one name in several runs", _same(comparison)]
    return foreign.markdown("\n\n".join(blocks) + "\n")


def heading(comparison: Mapping[str, Any]) -> str:
    """How many runs, engines and machines."""

    def count(number: int, word: str) -> str:
        return f"{number} {word}{'' if number == 1 else 's'}"

    runs, machines = len(comparison["runs"]), len(comparison["machines"])
    return f"{count(runs, 'run')}, {count(len(comparison['lines']), 'engine')}, {count(machines, 'machine')}"


def by_accuracy(comparison: Mapping[str, Any], test_set: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The lines of a test set, the most accurate first and, among equals, the smallest."""
    members = [line for line in comparison["lines"] if line["run"] in test_set["runs"]]
    return sorted(members, key=lambda line: (-line["accuracy_percent"], line["size_mb"]))


def on_front(line: Mapping[str, Any], test_set: Mapping[str, Any]) -> bool:
    """Whether no sound engine of the test set is as accurate and as small, and better in one."""
    return {"run": line["run"], "name": line["name"]} in test_set["front"]


def settings_on(comparison: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    """The settings that runs on a machine were timed at, by batch size."""
    names = {setting for run in comparison["runs"] if run["label"] in machine["runs"] for setting in run["settings"]}
    return sorted(names, key=lambda setting: int(setting.split()[1]))


def ranged(line: Mapping[str, Any], name: str, digits: int | None = None) -> str:
    """A figure with its interval in brackets; a ratio where no digits are asked for."""
    if line.get(name) is None:
        return "-"
    values = [line.get(f"{name}{end}") for end in ("", "_low", "_high")]
    value, low, high = ((ratio(each) if digits is None else show(each, digits)) for each in values)
    return f"{value} [{low}, {high}]"


def _runs(comparison: Mapping[str, Any]) -> str:
    rows = [
        [run["label"], show(run["engines"]), run["machine"], show(run["threads"]), run["command"] or "-"]
        for run in comparison["runs"]
    ]
    return table(["run", "engines", "machine", "threads", "command"], rows, LEFT)


def _accuracy(rows: Sequence[Mapping[str, Any]], test_set: Mapping[str, Any]) -> str:
    cells = [
        [
            line["run"], line["name"], ranged(line, "accuracy_percent", 2), quantity(line["size_mb"]),
            ratio(line["compression"]), "yes" if on_front(line, test_set) else "",
            "" if line["sound"] else "failed a gate",
        ]
        for line in rows
    ]  # fmt: skip
    metric = of_report(test_set).heading
    return table(["run", "engine", metric, "size MB", "CR", "nothing is smaller and as right", "gates"], cells, LEFT)


def _times(comparison: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    settings = settings_on(comparison, machine)
    heads = ["run", "engine"]
    for setting in settings:
        heads += ["p50 ms" if setting == "batch 1" else f"/s {setting}", f"IS {setting}"]
    rows = []
    for line in comparison["lines"]:
        if line["run"] not in machine["runs"]:
            continue
        cells = [line["run"], line["name"]]
        for setting in settings:
            batch = f"per_s_sorted_engine_{key(setting)}"
            time = quantity(line.get("latency_engine_p50_ms")) if setting == "batch 1" else show(line.get(batch))
            cells += [time, ranged(line, f"speedup_{key(setting)}")]
        rows.append(cells)
    return table(heads, rows, LEFT)


def _same(comparison: Mapping[str, Any]) -> str:
    runs = [run["label"] for run in comparison["runs"]]
    settings = sorted(
        {setting for run in comparison["runs"] for setting in run["settings"]}, key=lambda s: int(s.split()[1])
    )
    heads = ["engine", "engines", *(f"{run}: IS {setting}" for setting in settings for run in runs)]
    rows = []
    for each in comparison["same"]:
        cells = [each["name"], "one" if each["one_engine"] else "different"]
        for setting in settings:
            for run in runs:
                at = each["lines"].get(run)
                cells.append("-" if at is None else ranged(comparison["lines"][at], f"speedup_{key(setting)}"))
        rows.append(cells)
    return table(heads, rows, LEFT)
