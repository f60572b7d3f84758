"""What stands above and below the table, in words that every rendering shares."""

from __future__ import annotations

from collections import Counter

from toolchain.deliver.report.build import Report
from toolchain.deliver.report.figures import STATES, show
from toolchain.measure.gates import GATES

#: What each mark means; only those that occur are explained.
MARKS = {
    "baseline": "CR, IS and the change of accuracy are against this one, of the same model",
    "size only": "compressed, and nowhere measurably faster than its baseline: not to be shipped for speed",
    "no gain": "compressed, and neither smaller nor anywhere measurably faster than its baseline, as zeros are",
    "slower": "faster than its baseline elsewhere, and measurably slower at the batch size named",
    "labels lost": "parity failed: a pass or the engine changed more labels than it may: never recommended",
    "unfused": "the runtime has not fused all that this architecture lets it fuse: never recommended",
    "batch-bound": "more than 0.5 % of the labels depend on the batch or on the padding: never recommended",
    "VNNI only": "on processors without VNNI its int8 products saturate, and labels change",
    "misplaced": "some nodes ran elsewhere than on the provider that was asked for",
    "unstable": "the rounds spread far: close other programs and measure again",
}


def title(report: Report) -> str:
    """Name, number of engines, and what accuracy is of."""
    count = len(report.lines)
    examples = max((len(line.correct) for line in report.lines), default=0)
    engines = f"{count} engine{'' if count == 1 else 's'}"
    name = f"{report.name}: " if report.name else ""
    return f"{name}{engines}, accuracy on {show(examples)} {report.split} examples"


def footnotes(report: Report) -> list[tuple[str, str]]:
    """``(label, text)`` in reading order: the score, accuracy, time, machine, marks, and what is not in the table."""
    weights = {part: f"{value:g}" for part, value in report.weights.items()}
    formula = f"{weights['accuracy']}·A + {weights['compression']}·CR + {weights['speedup']}·IS"
    found = [
        ("WS", f"{formula} at {report.speedup}; A in percent; CR (bytes), IS (time): baseline / engine"),
        (
            "accuracy",
            f"{report.split} split, 95 % Wilson interval; * differs from the baseline (exact McNemar p < 0.05)",
        ),
        ("time", _timing(report)),
    ]
    machine = _machine(report)
    if machine:
        found.append(("machine", machine))
    if any(line.tied for line in report.lines):
        found.append(("≈", "the row is within noise of the one above it: their order says nothing"))
    seen = {mark for line in report.lines for mark in line.marks}
    found += [(mark, text) for mark, text in MARKS.items() if any(other.startswith(mark) for other in seen)]
    found += [
        ("gate missed", f"{line.name}: {verdict.gate}: {verdict.evidence}")
        for line in report.lines
        for verdict in line.gates
        if verdict.failed and verdict.gate != "never slower"
    ]
    found += [(f"gate {gate}", told) for gate, told in _gates(report)]
    found += [("not applicable", f"{name}: {reason}") for name, reason in report.not_applicable]
    found += [("not run", f"{name}: {reason}") for name, reason in report.not_run]
    found += [("not timed", f"{line.name}: {line.error}") for line in report.lines if line.error]
    found += [("failed", f"{name}: {error}") for name, error in report.failed]
    # An engine's own notes repeat from engine to engine; each is told once.
    notes = [*report.notes, *(note for line in report.lines for note in line.evaluation.get("notes", ()))]
    return found + [("note", text) for text in dict.fromkeys(notes)]


def _gates(report: Report) -> list[tuple[str, str]]:
    """For each gate, how many engines passed it, failed it, and for which it was not run, and why."""
    rows = []
    for gate in GATES if report.lines else ():
        verdicts = [verdict for line in report.lines for verdict in line.gates if verdict.gate == gate]
        states = Counter(STATES[verdict.passed] for verdict in verdicts)
        reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason)
        told = ", ".join(f"{states[state]} {state}" for state in STATES.values() if states[state])
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        rows.append((gate, f"{told}: {why}" if why else told))
    return rows


def _timing(report: Report) -> str:
    settings = report.settings
    rounds = (
        f"median of {settings['rounds']} interleaved rounds"
        if settings.get("rounds")
        else "median of interleaved rounds"
    )
    sample = f" on {show(settings['sample'])} texts" if settings.get("sample") else ""
    threads = f", {settings['threads']} threads" if settings.get("threads") else ""
    return f"{rounds}{sample}{threads}; the engine alone, without its tokenizer, batches sorted by length"


def _machine(report: Report) -> str:
    """What it was measured on, from the keys of ``measure.machine.machine()``."""
    machine = report.machine
    cores = f"{machine['physical_cores']} cores" if machine.get("physical_cores") else ""
    memory = f"{machine['memory_gib']} GiB" if machine.get("memory_gib") else ""
    parts = [machine.get("cpu"), cores, memory, *(machine.get("gpus") or ()), machine.get("system")]
    return ", ".join(str(part) for part in parts if part)
