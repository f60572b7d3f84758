"""A run against its recipe's bounds: every engine by every bound that is for it, passed, failed or skipped.

What cannot be judged never passes: an engine that was not built, evaluated or timed fails each bound that needs it. One
that cannot run on this machine is skipped, unless its rule demands it (``require``).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolchain.deliver.junit import Case, junit
from toolchain.deliver.report.figures import figures, key, quantity, show
from toolchain.deliver.report.metric import ACCURACY
from toolchain.pipeline.bounds import RELATIVE, Rule

if TYPE_CHECKING:
    from rich.table import Table

    from toolchain.deliver.report import Line, Report
    from toolchain.measure.gates import Verdict
    from toolchain.pipeline.run import Outcome

State = Literal["passed", "failed", "skipped"]

#: Files beside the report.
FILES = ("checks.json", "junit.xml")

#: Bounds that a value must reach; the others it must not exceed.
LEAST = ("accuracy", "per_s", "speedup")

UNITS = {
    "accuracy_drop": " points of change", "size_mb": " MB", "size_ratio": " × the baseline's bytes",
    "latency_ms": " ms", "per_s": " sentences/s", "latency_ratio": " × the baseline's time",
    "speedup": " × as fast as the baseline",
}  # fmt: skip

_COSTS = (
    "'toolchain explain' shows what each pass did to labels: calibrate on more samples, exclude the layers that "
    "'toolchain sensitivity' finds costly, or take the pass out"
)
_BYTES = "quantize or prune more, or cut the vocabulary"
_TIMES = "compress more, or measure again where nothing else runs; a time holds for the machine that it was taken on"

ONE_ROUND = "one round gives no interval: set benchmark.rounds higher, or confident: false"

#: What to do when a bound is broken.
ADVICE = {
    "accuracy": _COSTS, "accuracy_drop": _COSTS, "size_mb": _BYTES, "size_ratio": _BYTES, "latency_ms": _TIMES,
    "per_s": _TIMES, "latency_ratio": _TIMES, "speedup": _TIMES,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Check:
    """One engine by one bound.

    Attributes:
        engine: The engine, as the report calls it.
        bound: The bound's name in the recipe, with its setting where it is about time; ``gate NAME`` for a gate.
        limit: What it asks, in words.
        value: What was found, in the bound's unit; None where there is no number.
        found: What was found, in words.
        state: ``passed``, ``failed`` or ``skipped``.
        message: Value, bound and what to do, of a failure; the reason, of what was skipped; else empty.
    """

    engine: str
    bound: str
    limit: str
    value: float | None
    found: str
    state: State
    message: str = ""


@dataclass(frozen=True)
class _Absence:
    """Why an engine has no line in the report."""

    state: State
    reason: str


def judge(outcome: Outcome, report: Report | None) -> list[Check]:
    """Holds every engine of a run to the bounds of its recipe.

    Args:
        outcome: The run, or a preview of what the store has.
        report: Its report; None where no engine was evaluated.

    Returns:
        One for each engine and bound, in the recipe's order of engines and rules.
    """
    recipe = outcome.plan.recipe
    unit = (report.kind.METRIC if report else ACCURACY).unit
    standings: dict[tuple[str, int, str, str], Line | _Absence] = dict(_absences(outcome))
    for line in report.lines if report else ():
        standings[line.row.model, line.row.seed, line.row.variant, line.row.engine] = line
    unfit = dict(outcome.plan.not_applicable)
    checks: list[Check] = []
    for seed in recipe.seeds:
        for model, variant in recipe.variants:
            # What came as an engine is its own.
            own = (engine for *of, engine in standings if of == [model, seed, variant])
            for engine in dict.fromkeys([*(item.label for item in recipe.engines), *own]):
                name = "/".join([*([model] if len(recipe.models) > 1 else []), variant, engine])
                shown = f"{name} #{seed}" if len(recipe.seeds) > 1 else name
                standing = standings.get((model, seed, variant, engine))
                if standing is None and name in unfit:
                    standing = _Absence("skipped", f"not applicable: {unfit[name]}")
                if standing is None:
                    continue
                baseline = (variant, engine) == recipe.baseline
                for rule in recipe.check:
                    if rule.covers(model, variant, engine):
                        checks += _judged(rule, shown, standing, baseline, unit)
    return checks


def _absences(outcome: Outcome) -> Iterator[tuple[tuple[str, int, str, str], _Absence]]:
    """Why planned engines may have no line; those that have one are not looked up here."""
    plan = outcome.plan
    for row in plan.rows:
        why = outcome.failed.get(row.build) or outcome.failed.get(row.evaluate) or "not run yet"
        yield (row.model, row.seed, row.variant, row.engine), _Absence("failed", why)
    for row, reason in plan.not_run:
        error = outcome.failed.get(row.build)
        absence = _Absence("failed", error) if error else _Absence("skipped", f"cannot run on this machine: {reason}")
        yield (row.model, row.seed, row.variant, row.engine), absence


def _judged(rule: Rule, name: str, standing: Line | _Absence, baseline: bool, unit: str) -> Iterator[Check]:
    """An engine by one rule; the unit is the metric's, which the bound on accuracy is of."""
    units = UNITS | {"accuracy": f" {unit}".rstrip()}
    for bound, limit in rule.bounds.items():
        if baseline and bound in RELATIVE:
            continue
        timed = bound in ("per_s", "latency_ratio", "speedup")
        label = f"{bound} at {rule.at}" if timed else bound
        label += _told(rule, timed or bound == "latency_ms", ranged=not bound.startswith("size"))
        side = "at least" if bound in (*LEAST, "accuracy_drop") else "at most"
        allowed = f"{side} {_number(bound, limit)}{units[bound]}"
        if isinstance(standing, _Absence):
            yield _absent(rule, name, label, allowed, standing)
            continue
        value, note = _measured(bound, rule, standing)
        if value is None:
            message = f"{name}: {label}: {note}; {allowed} was asked for"
            yield Check(
                engine=name, bound=label, limit=allowed, value=None, found=note, state="failed", message=message
            )
            continue
        # Nine decimals: a share of examples times 100 is not exact in binary.
        holds = round(value, 9) >= limit if bound in LEAST else round(value, 9) <= limit
        found = f"{_number(bound, value)}{units[bound]}{note}"
        message = "" if holds else f"{name}: {label} is {found}, {allowed} was asked for: {ADVICE[bound]}"
        state: State = "passed" if holds else "failed"
        yield Check(engine=name, bound=label, limit=allowed, value=value, found=found, state=state, message=message)
    for gate in dict.fromkeys(rule.gates):
        if baseline and gate == "never slower":
            continue
        if isinstance(standing, _Absence):
            yield _absent(rule, name, f"gate {gate}", "must pass", standing)
        else:
            yield _gate(name, next(verdict for verdict in standing.gates if verdict.gate == gate))


def _told(rule: Rule, timed: bool, *, ranged: bool) -> str:
    """What of a rule tells its bound from the same one of another rule.

    Args:
        rule: The rule.
        timed: Whether the bound is on time, which is taken with the tokenizer or without.
        ranged: Whether it can be held at the worse end of an interval.
    """
    scope = ", end to end" if timed and rule.scope == "end_to_end" else ""
    return scope + ("" if rule.confident or not ranged else ", as measured") + (", required" if rule.require else "")


def _absent(rule: Rule, name: str, bound: str, limit: str, absence: _Absence) -> Check:
    """A bound on an engine that is not in the report."""
    reason = absence.reason.splitlines()[0]
    state = "failed" if rule.require else absence.state
    demanded = " (require: true)" if state != absence.state else ""
    message = reason if state == "skipped" else f"{name}: {bound} cannot be judged{demanded}: {reason}"
    return Check(engine=name, bound=bound, limit=limit, value=None, found=reason, state=state, message=message)


def _gate(name: str, verdict: Verdict) -> Check:
    """A gate that must pass; one that was not run has not."""
    if verdict.passed:
        found, message = f"passed: {verdict.evidence}", ""
    else:
        found = f"failed: {verdict.evidence}" if verdict.failed else f"not run: {verdict.reason}"
        advice = "'toolchain explain' shows its evidence, docs/gates.md what to change"
        message = f"{name}: gate {verdict.gate} must pass, and {found}: {advice}"
    state: State = "failed" if message else "passed"
    return Check(
        engine=name, bound=f"gate {verdict.gate}", limit="must pass", value=None, found=found, state=state,
        message=message,
    )  # fmt: skip


def _measured(bound: str, rule: Rule, line: Line) -> tuple[float | None, str]:
    """What a line has for a bound, with what a reader must know of it; or None and why there is nothing."""
    if bound == "size_mb":
        return line.size_mb, ""
    if bound == "accuracy":
        measured = 100 * line.accuracy.estimate
        return (100 * line.accuracy.low, _end(measured)) if rule.confident else (measured, "")
    lost, compression = line.difference, line.compression
    if bound in RELATIVE and (lost is None or compression is None):
        return None, "its baseline was not evaluated"
    if bound == "size_ratio" and compression:
        return 1 / compression, ""
    if bound == "accuracy_drop" and lost:
        measured = 100 * lost.estimate
        low = line.not_worse.interval.low if line.not_worse else lost.low
        return (-100 * low, _end(measured, sign=True)) if rule.confident else (-measured, "")
    if line.error:
        return None, f"not timed: {line.error.splitlines()[0]}"
    shaky = ", unstable" if line.unstable(rule.at) else ""
    if bound in ("latency_ms", "per_s"):
        at = key(rule.at)
        name = f"latency_{rule.scope}_p50_ms" if bound == "latency_ms" else f"per_s_sorted_{rule.scope}_{at}"
        timed = figures(line, line.settings)
        value, worse = timed.get(name), timed.get(f"{name}_{'high' if bound == 'latency_ms' else 'low'}")
        if value is None:
            return None, f"not timed at {rule.at}"
        if not rule.confident:
            return float(value), shaky
        return (None, ONE_ROUND) if not worse else (float(worse), _end(float(value)) + shaky)
    ratio = line.speedup_of(rule.scope).get(rule.at)
    if ratio is None:
        return None, f"it or its baseline was not timed at {rule.at}"
    speedup = ratio.low if rule.confident else ratio.estimate
    if speedup <= 0:
        return None, ONE_ROUND
    value, measured = (speedup, ratio.estimate) if bound == "speedup" else (1 / speedup, 1 / ratio.estimate)
    return value, (_end(measured) if rule.confident else "") + shaky


def _end(measured: float, *, sign: bool = False) -> str:
    """Says that a value is the worse end of an interval, and what was measured."""
    return f" at the worse end of its 95 % interval, {show(measured, 2, sign=sign)} measured"


def _number(bound: str, value: float) -> str:
    """A value in words; a drop is told as the change that the table has, a loss below 0."""
    if bound == "accuracy_drop":
        return show(-value, 2, sign=True)
    return show(value, 2) if bound == "accuracy" else quantity(value)


def missed(checks: Sequence[Check]) -> list[Check]:
    """Those that failed."""
    return [check for check in checks if check.state == "failed"]


def counted(checks: Sequence[Check]) -> str:
    """How many passed, failed and were skipped."""
    states = [check.state for check in checks]
    return ", ".join(f"{states.count(state)} {state}" for state in ("passed", "failed", "skipped"))


def to_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks as plain JSON values."""
    return [dataclasses.asdict(check) for check in checks]


def to_junit(checks: Sequence[Check], name: str, properties: Mapping[str, Any]) -> bytes:
    """The checks as JUnit XML: one test case for each engine and bound.

    Args:
        checks: The checks.
        name: The recipe's name.
        properties: What else to tell, such as the machine.
    """
    cases = [
        Case(f"{name}.{check.engine}", f"{check.bound}: {check.limit}", check.state, check.message, check.found)
        for check in checks
    ]
    return junit(name, cases, properties)


def write(checks: Sequence[Check], name: str, properties: Mapping[str, Any], folder: Path) -> None:
    """Writes ``checks.json`` and ``junit.xml`` into a folder that is there."""
    text = json.dumps(to_json(checks), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "checks.json").write_text(text + "\n", encoding="utf-8")
    (folder / "junit.xml").write_bytes(to_junit(checks, name, properties))


def table(checks: Sequence[Check]) -> Table:
    """The checks on a terminal."""
    from rich.table import Table
    from rich.text import Text

    styles = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
    grid = Table(box=None, header_style="bold", pad_edge=False, title="Checks", title_justify="left")
    for column in ("engine", "bound", "limit", "found", "result"):
        grid.add_column(column, overflow="fold")
    for check in checks:
        short = check.found if check.state != "passed" else check.found.partition(":")[0]  # a gate's evidence is long
        cells = (check.engine, check.bound, check.limit, short)
        grid.add_row(*map(Text, cells), Text(check.state, style=styles[check.state]))
    return grid
