"""What stands above and below the table, in words that every rendering shares."""

from __future__ import annotations

import math
from collections import Counter

from toolchain.deliver.report.build import Report
from toolchain.deliver.report.certainty import Winner
from toolchain.deliver.report.figures import ASKED, LABEL, STATES, share_of_weights, show, state
from toolchain.deliver.report.limits import wanted
from toolchain.kinds.contract import Metric
from toolchain.measure.gates import GATES

#: What each weight of the score but the metric's is of.
NOUNS = {"compression": "size", "speedup": "speed"}

#: How many engines that are tied with the winner are named.
NAMED = 5

#: What each mark means; only those that occur are explained.
MARKS = {
    "baseline": "others are compared with it: size, time and accuracy, of the same model",
    "not certified": "it may have learned from what it is judged on: its accuracy certifies nothing",
    "size only": "compressed, and nowhere measurably faster than its baseline: not to be shipped for speed",
    "no gain": "compressed, and neither smaller nor anywhere measurably faster than its baseline, as zeros are",
    "slower": "faster than its baseline elsewhere, and measurably slower at the batch size named",
    "labels lost": "parity failed: a pass or the engine changed more labels than it may: not to be shipped",
    "answers lost": "parity failed: a pass or the engine changed more answers than it may: not to be shipped",
    "unfused": "the runtime has not fused all that this architecture lets it fuse: not to be shipped",
    "partly fused": "some of attention, layer-norm or GELU runs as several small operators: right, though slower",
    "depends on batch": "more than 0.5 % of the labels depend on the batch or on the padding: not to be shipped",
    "may depend on batch": "the test split cannot say whether more than 0.5 % of the labels depend on the batch",
    "VNNI only": "on processors without VNNI its int8 products saturate, and labels change",
    "misplaced": "some nodes ran elsewhere than on the provider that was asked for: not to be shipped",
    "accuracy too low": "below what is asked of an engine's accuracy: not to be shipped",
    "accuracy unsettled": "the examples cannot say whether its accuracy is within the limit: not to be shipped",
    "too large": "more bytes to download than the limit: not to be shipped",
    "too slow": "slower than the limit: not to be shipped",
    "speed unsettled": "the rounds cannot say whether it is within the limit: not to be shipped",
    "not asked for": "limits.engines names others: not to be shipped",
    "unstable": "its speed against its baseline is not known to ±10 %: close other programs and measure again",
}


def title(report: Report) -> str:
    """Name, number of engines, and what the metric is of."""
    count = len(report.lines)
    examples = max((len(line.scores) for line in report.lines), default=0)
    engines = f"{count} engine{'' if count == 1 else 's'}"
    name = f"{report.name}: " if report.name else ""
    return f"{name}{engines}, {report.kind.METRIC.name} on {show(examples)} {report.split} examples"


def footnotes(report: Report) -> list[tuple[str, str]]:
    """``(label, text)`` in reading order: the score, accuracy, time, machine, marks, and what is not in the table."""
    weights, metric = report.weights, report.kind.METRIC
    formula = (
        f"{weights['accuracy']:g} · {worth(metric)} + {weights['compression']:g} · times smaller + "
        f"{weights['speedup']:g} · times faster"
    )
    entries = [
        ("score", f"{formula}, at {report.speedup}; the baseline's bytes and time over the engine's own"),
        ("to be shipped", f"asked of an engine: {wanted(report.limits, metric)}; and that no gate bars it"),
        (metric.name, _accuracy(report)),
        *_not_worse(report),
        ("time", _timing(report)),
    ]
    machine = _machine(report)
    if machine:
        entries.append(("machine", machine))
    entries += _order(report)
    seen = {mark for line in report.lines for mark in line.marks}
    entries += [(mark, text) for mark, text in MARKS.items() if any(other.startswith(mark) for other in seen)]
    entries += [("not certified", f"{line.name}: {line.row.objection}") for line in report.lines if line.row.objection]
    entries += [("may not be shipped", f"{line.name}: {reason}") for line in report.lines for reason in line.barred]
    entries += [
        ("partly fused", f"{line.name}: {verdict.evidence}")
        for line in report.lines
        for verdict in line.gates
        if verdict.label
    ]
    entries += [(f"gate {gate}", f"{ASKED[gate]}: {counts}") for gate, counts in _gates(report)]
    entries += [("not applicable", f"{name}: {reason}") for name, reason in report.not_applicable]
    entries += [("not run", f"{name}: {reason}") for name, reason in report.not_run]
    entries += [("not timed", f"{line.name}: {line.error}") for line in report.lines if line.error]
    entries += [("failed", f"{name}: {error}") for name, error in report.failed]
    # An engine's own notes repeat from engine to engine; each is told once.
    notes = [*report.notes, *(note for line in report.lines for note in line.evaluation.get("notes", ()))]
    return entries + [("note", text) for text in dict.fromkeys(notes)]


def _accuracy(report: Report) -> str:
    grouped = any(line.groups is not None for line in report.lines)
    binary = report.kind.METRIC.binary
    interval = "95 % Wilson interval" if binary else "95 % interval by the paired bootstrap"
    together = ", widened for examples that hang together" if binary else ", of groups that hang together"
    return f"{report.split} split, {interval}" + (together if grouped else "")


def worth(metric: Metric) -> str:
    """Return in words the part of the score that the metric is."""
    return f"{metric.name} in percent" if metric.unit == "%" else metric.name


def not_worse_head(report: Report) -> str:
    """The heading of the verdict on a margin."""
    return f"at most {report.margin:g} points worse"


def _not_worse(report: Report) -> list[tuple[str, str]]:
    """What the verdict on the margin means, and what would settle it where it is open."""
    verdicts = [line.not_worse for line in report.lines if line.not_worse]
    if not verdicts:
        return []
    text = "than the baseline, with 95 %: yes, no, or ? where the examples cannot say"
    needed = [verdict.needed for verdict in verdicts if verdict.needed]
    if needed:
        text += f"; about {show(min(needed))} would do for the nearest of these"
    return [(not_worse_head(report), text)]


def _order(report: Report) -> list[tuple[str, str]]:
    """What the data settle of the ranking, and what the weights decide of it."""
    notes = []
    if any(line.tied for line in report.lines):
        notes.append(("≈", "the data do not settle which of the row and the one above it is ahead"))
    winner = report.winner
    if winner and sum(line.rank is not None for line in report.lines) > 1:
        tie = f"{winner.name} is tied with {tied_with(winner)}: the data do not settle which is ahead"
        settled = f"{winner.name}: the data put it ahead of every other that may be shipped"
        share = f"{winner.name} is first under {share_of_weights(winner.share)} % of all weights of the score"
        nouns = NOUNS | {"accuracy": report.kind.METRIC.name}
        limits = [f"{nouns[part]} {_range(*ends)}" for part, ends in winner.ranges.items() if ends != (0.0, math.inf)]
        moved = f", and, one moved at a time, while the weight of {', of '.join(limits)}" if limits else ""
        notes += [("winner", tie if winner.tied else settled), ("weights", share + moved)]
    if report.pooled:
        seeds = max(len(pooled.seeds) for pooled in report.pooled)
        notes.append(
            ("#", f"a seed's row; report.md has each engine over its {seeds} seeds, and what holds for others")
        )
    return notes


def tied_with(winner: Winner, most: int = NAMED) -> str:
    """Return the engines that are tied with the winner, the rest of them counted."""
    rest = len(winner.tied) - most
    return ", ".join(winner.tied[:most]) + (f" and {rest} more" if rest > 0 else "")


def _range(low: float, high: float) -> str:
    """A range of a weight in words."""
    return f"is {low:.2g} to {high:.2g}" if math.isfinite(high) else f"is at least {low:.2g}"


def _gates(report: Report) -> list[tuple[str, str]]:
    """For each gate, how many engines passed it, failed it, and for which it was not run, and why."""
    rows = []
    for gate in GATES if report.lines else ():
        verdicts = [verdict for line in report.lines for verdict in line.gates if verdict.gate == gate]
        states = Counter(map(state, verdicts))
        reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason)
        counts = ", ".join(f"{states[word]} {word}" for word in (*STATES.values(), LABEL) if states[word])
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items())
        rows.append((gate, f"{counts}: {why}" if why else counts))
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
