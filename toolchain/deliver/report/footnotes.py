"""What stands above and below the table, in words that every rendering shares."""

from __future__ import annotations

import math
from collections import Counter

from toolchain.deliver.report.build import Report
from toolchain.deliver.report.figures import STATES, share_of_weights, show
from toolchain.measure.gates import GATES

#: The parts of WS, as its formula has them.
SYMBOLS = {"accuracy": "A", "compression": "CR", "speedup": "IS"}

#: How many engines that are tied with the winner are named.
NAMED = 5

#: What each mark means; only those that occur are explained.
MARKS = {
    "baseline": "CR, IS and the change of accuracy are against this one, of the same model",
    "not certified": "it may have learned from what it is judged on: its accuracy certifies nothing",
    "size only": "compressed, and nowhere measurably faster than its baseline: not to be shipped for speed",
    "no gain": "compressed, and neither smaller nor anywhere measurably faster than its baseline, as zeros are",
    "slower": "faster than its baseline elsewhere, and measurably slower at the batch size named",
    "labels lost": "parity failed: a pass or the engine changed more labels than it may: never recommended",
    "unfused": "the runtime has not fused all that this architecture lets it fuse: never recommended",
    "batch-bound": "more than 0.5 % of the labels depend on the batch or on the padding: never recommended",
    "maybe batch-bound": "the test split is too small to say whether more than 0.5 % of the labels depend on the batch",
    "VNNI only": "on processors without VNNI its int8 products saturate, and labels change",
    "misplaced": "some nodes ran elsewhere than on the provider that was asked for",
    "unstable": "its speed against its baseline is not known to ±10 %: close other programs and measure again",
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
        ("accuracy", _accuracy(report)),
        *_not_worse(report),
        ("time", _timing(report)),
    ]
    machine = _machine(report)
    if machine:
        found.append(("machine", machine))
    found += _order(report)
    seen = {mark for line in report.lines for mark in line.marks}
    found += [(mark, text) for mark, text in MARKS.items() if any(other.startswith(mark) for other in seen)]
    found += [("not certified", f"{line.name}: {line.row.objection}") for line in report.lines if line.row.objection]
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


def _accuracy(report: Report) -> str:
    grouped = any(line.groups is not None for line in report.lines)
    interval = "95 % Wilson interval" + (", widened for examples that hang together" if grouped else "")
    return f"{report.split} split, {interval}; * differs from the baseline (exact McNemar, Holm's p < 0.05)"


def not_worse_head(report: Report) -> str:
    """The heading of the verdict on a margin."""
    return f"at most {report.margin:g} points worse"


def _not_worse(report: Report) -> list[tuple[str, str]]:
    """What the verdict on the margin means, and what would settle it where it is open."""
    verdicts = [line.not_worse for line in report.lines if line.not_worse]
    if not verdicts:
        return []
    text = f"{not_worse_head(report)} than the baseline, with 95 %: yes, no, or ? where the examples cannot say"
    needed = [verdict.needed for verdict in verdicts if verdict.needed]
    if needed:
        text += f"; about {show(min(needed))} would do for the nearest of these"
    return [(f"≤ {report.margin:g}", text)]


def _order(report: Report) -> list[tuple[str, str]]:
    """What the data settle of the ranking, and what the weights decide of it."""
    found = []
    if any(line.tied for line in report.lines):
        found.append(("≈", "the data do not settle which of the row and the one above it is ahead"))
    winner = report.winner
    if winner and sum(line.rank is not None and line.sound for line in report.lines) > 1:
        others = [*winner.tied[:NAMED], *([f"{len(winner.tied) - NAMED} more"] if len(winner.tied) > NAMED else [])]
        tie = f"{winner.name} is tied with {', '.join(others)}: the data do not settle which is ahead"
        order = tie if others else f"{winner.name}: the data put it ahead of every other sound engine"
        ranges = ", ".join(f"w_{SYMBOLS[part]} {_range(*ends)}" for part, ends in winner.ranges.items())
        share = f"{winner.name} is first under {share_of_weights(winner.share)} % of all weights"
        found += [("winner", order), ("weights", f"{share}, and, one moved at a time, while {ranges}")]
    if report.pooled:
        seeds = max(len(pooled.seeds) for pooled in report.pooled)
        found.append(
            ("#", f"a seed's row; report.md has each engine over its {seeds} seeds, and what holds for others")
        )
    return found


def _range(low: float, high: float) -> str:
    """A range of a weight in words."""
    if math.isfinite(high):
        return f"is {low:.2g} to {high:.2g}"
    return f"is at least {low:.2g}" if low else "is whatever it is"


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
    quota = f"{machine['cpu_quota']:g} CPU quota" if machine.get("cpu_quota") else ""
    memory = f"{machine['memory_gib']} GiB" if machine.get("memory_gib") else ""
    parts = [machine.get("cpu"), cores, quota, memory, *(machine.get("gpus") or ()), machine.get("system")]
    return ", ".join(str(part) for part in parts if part)
