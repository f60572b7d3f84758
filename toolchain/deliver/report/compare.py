"""Several runs side by side, from one machine or many; nothing measured on one machine is divided by another's.

Bytes are compared everywhere, accuracies on one test set, times on one machine. A ratio of times stays what it was: an
engine against the baseline of its own run, taken in the same rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.core.errors import StoreError
from toolchain.deliver.report.figures import key, show
from toolchain.deliver.report.page.lines import front, settings_of, sound
from toolchain.deliver.report.page.sections import machine

#: What a line of the comparison has from its report, besides what was timed.
KEPT = (
    "name", "model", "variant", "engine", "seed", "baseline", "marks", "engine_key", "techniques", "accuracy_percent",
    "accuracy_percent_low", "accuracy_percent_high", "accuracy_change_points", "size_mb", "compression",
)  # fmt: skip


def compare(reports: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """Sets reports side by side.

    Args:
        reports: Each as ``report.json`` has it; at least one.
        labels: What each is called; all different.

    Returns:
        ``runs``; ``machines`` and ``test_sets``, each with the runs that share it; ``lines``, every engine of every run
        with its own run's figures; ``front``, the sound engines that none beats in accuracy and bytes, per test set;
        ``same``, engines of one name that several runs have, baselines left out; and ``rules``, what was compared and
        what was not, in words.

    Raises:
        StoreError: Two reports have one label.
    """
    if len(set(labels)) < len(labels):
        raise StoreError(f"a report is named twice: {', '.join(labels)}", "name each once")
    runs = [_run(report, label) for report, label in zip(reports, labels, strict=True)]
    machines = _groups(runs, "machine_key", "machine")
    test_sets = _groups(runs, "test_key", "test_set")
    lines = [
        _line(line, run, settings_of(report["lines"]))
        for report, run in zip(reports, runs, strict=True)
        for line in report["lines"]
    ]
    fronts = []
    for test_set in test_sets:
        members = [line for line in lines if line["run"] in test_set["runs"]]
        fronts.append([_place(members[index]) for index in front(members, "size_mb", more=False)])
    return {
        "runs": [{name: value for name, value in run.items() if not name.endswith("_key")} for run in runs],
        "machines": machines,
        "test_sets": [
            {**test_set, "front": found, "metric": _metric(test_set, runs)}
            for test_set, found in zip(test_sets, fronts, strict=True)
        ],
        "lines": lines,
        "same": _same(lines, runs),
        "rules": rules(runs, machines, test_sets),
    }


def _run(report: Mapping[str, Any], label: str) -> dict[str, Any]:
    """What is known of a run; what is not recorded is shared with nobody."""
    settings = report.get("settings") or {}
    lines = report["lines"]
    examples = max((line.get("examples") or 0 for line in lines), default=0)
    known = report.get("machine")
    digest = report.get("test_set")
    return {
        "label": label,
        "name": report["name"],
        "machine": machine(report),
        "threads": settings.get("threads"),
        "split": report["split"],
        "examples": examples,
        "test_set": digest,
        "metric": report.get("metric"),
        "engines": len(lines),
        "settings": settings_of(lines),
        "command": (report.get("made") or {}).get("command"),
        "machine_key": (repr(sorted(known.items(), key=str)), settings.get("threads")) if known else label,
        "test_key": digest or (report["split"], examples),
    }


def _metric(test_set: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Any:
    """Return the metric that runs of a test set were judged by, as their reports name it."""
    return next(run["metric"] for run in runs if run["label"] in test_set["runs"])


def _groups(runs: Sequence[Mapping[str, Any]], by: str, told: str) -> list[dict[str, Any]]:
    """Runs that share something, each group once, in the order of the runs."""
    found: dict[Any, dict[str, Any]] = {}
    for run in runs:
        if told == "machine":
            words = run["machine"] + (f", {run['threads']} threads" if run["threads"] else "")
        else:
            words = f"{show(run['examples'])} {run['split']} examples" + (f" ({run[told]})" if run[told] else "")
        found.setdefault(run[by], {"told": words, "runs": []})["runs"].append(run["label"])
    return list(found.values())


def _line(line: Mapping[str, Any], run: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """An engine with the figures of its own run."""
    timed = ["latency_engine_p50_ms"] if "batch 1" in settings else []
    for setting in settings:
        timed += [f"speedup_{key(setting)}{end}" for end in ("", "_low", "_high")]
        timed += [f"per_s_sorted_engine_{key(setting)}"] if setting != "batch 1" else []
    figures = {name: line.get(name) for name in (*KEPT, *timed)}
    return {"run": run["label"], "sound": sound(line), **figures, "gates": line.get("gates", [])}


def _place(line: Mapping[str, Any]) -> dict[str, str]:
    return {"run": line["run"], "name": line["name"]}


def _same(lines: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Engines of one name, model and seed that several runs have: by run, the places of their lines."""
    found: dict[tuple[Any, ...], dict[str, int]] = {}
    for index, line in enumerate(lines):
        names = tuple(line[part] for part in ("model", "variant", "engine", "seed"))
        found.setdefault(names, {})[line["run"]] = index
    several = len({names[0] for names in found}) > 1
    return [
        {
            "name": "/".join(map(str, names[0 if several else 1 : 3])) + f" #{names[3]}",
            "lines": places,
            "one_engine": len({lines[at]["engine_key"] or at for at in places.values()}) == 1,
        }
        for names, places in found.items()
        if len(places) > 1 and not all(lines[at]["baseline"] for at in places.values())
    ] if len(runs) > 1 else []  # fmt: skip


def rules(
    runs: Sequence[Mapping[str, Any]], machines: Sequence[Mapping[str, Any]], test_sets: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What was compared and what was not, and why, for these runs."""
    lines = ["Sizes are bytes on disk and are compared across all runs."]
    if len(test_sets) > 1:
        lines.append(f"Accuracies are compared within each of {len(test_sets)} test sets, and not across them.")
    else:
        lines.append("Accuracies are all of one test set. Their intervals are unpaired: runs share no list of answers.")
    silent = [run["label"] for run in runs if run["test_set"] is None]
    if silent and len(runs) > 1:
        lines.append(
            f"{', '.join(silent)}: written before reports kept a digest of their test set; taken for one where their "
            "split and number of examples agree."
        )
    if len(machines) > 1:
        lines.append(
            f"{len(machines)} machines: times stand in a table for each, and none of one is divided by another's; CR "
            "and IS are each run's own, against its own baseline."
        )
    if any(len(each["runs"]) > 1 for each in machines):
        lines.append(
            "Runs are of one machine where processor, its features, cores, memory, host, system, GPUs, threads agree: "
            "their times stand side by side; they are of different rounds, so no ratio is formed across runs either."
        )
    return lines
