"""Which engine fits limits, and why; or that none does, which are nearest, and whether more data could settle it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toolchain.certainty.noninferiority import MOST_NEEDED
from toolchain.deliver.report.figures import quantity, ratio, show
from toolchain.deliver.report.limits import Finding, findings, floors
from toolchain.deliver.report.limits import rule as accuracy_rule
from toolchain.deliver.report.line import failed_mark
from toolchain.deliver.report.metric import of_report
from toolchain.deliver.report.page.lines import Line, failed, number, settings_of
from toolchain.deliver.report.summary import time_figure
from toolchain.deliver.report.take import take
from toolchain.pipeline.limits import Limits

#: How many engines are shown where none fits.
NEAREST = 5

#: Ratios of times within this share of each other are equal: then the smaller engine is taken.
EQUAL = 0.01


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One engine by the limits.

    Attributes:
        name: The engine, as the report calls it.
        engine_key: Its key in the store.
        findings: Every limit, with what was measured.
        gates: The gates that bar it.
        marks: What reports call those.
    """

    name: str
    engine_key: str
    findings: tuple[Finding, ...]
    gates: tuple[str, ...]
    marks: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether no gate bars it and every limit holds."""
        return not self.gates and all(finding.state == "holds" for finding in self.findings)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What fits.

    Attributes:
        limits: What was asked.
        rule: What was asked of accuracy, in words.
        setting: The setting at which the fastest is sought.
        chosen: The engine that fits; None where none does.
        candidates: Every engine: those that fit first, the one to take ahead, then the nearest.
        command: What writes the engine into a folder; empty where no recipe made it, or nothing fits.
    """

    limits: Limits
    rule: str
    setting: str
    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    command: str


def choose(report: Mapping[str, Any], limits: Limits, store: str = "") -> Choice:
    """Choose the engine of a report that fits limits.

    Of those that fit the fastest is taken, at the setting that is limited or else the one of the report's score; of
    equals the smaller one.

    Args:
        report: As ``report.json`` has it.
        limits: What is asked.
        store: The store's folder for the command, where it is not the default.
    """
    lines: Sequence[Line] = report["lines"]
    batches, metric = settings_of(lines), of_report(report)
    floor_of = floors(lines)
    at = limits.at or (batches[-1] if batches else "")
    setting = at if limits.per_s is not None else "batch 1" if limits.latency_ms is not None else str(report["speedup"])
    pairs = [
        (
            line,
            Candidate(
                name=str(line["name"]),
                engine_key=str(line.get("engine_key") or ""),
                findings=tuple(findings(line, limits, floor_of.get(line["seed"]), batches, metric)),
                gates=tuple(failed(line)),
                marks=tuple(failed_mark(gate, metric) for gate in failed(line)),
            ),
        )
        for line in lines
        if limits.allows(line["model"], line["variant"], line["engine"])
    ]
    fit = sorted((pair for pair in pairs if pair[1].fits), key=lambda pair: _time(pair[0], setting))
    if fit:
        fastest = _time(fit[0][0], setting)
        equal = [pair for pair in fit if _time(pair[0], setting) <= fastest * (1 + EQUAL)]
        first = min(equal, key=lambda pair: float(pair[0]["size_mb"]))
        fit = [first, *(pair for pair in fit if pair is not first)]
    others = sorted((pair for pair in pairs if not pair[1].fits), key=lambda pair: _far(pair[1]))
    command = str((report.get("made") or {}).get("command") or "")
    return Choice(
        limits=limits,
        rule=accuracy_rule(limits, metric),
        setting=setting,
        chosen=fit[0][1] if fit else None,
        candidates=tuple(candidate for _, candidate in (*fit, *others)),
        command=take(command, fit[0][0], lines, store) if fit else "",
    )


def _time(line: Line, setting: str) -> float:
    """Return the time at a setting in a unit that all engines share; infinite where it was not timed."""
    value = number(line, time_figure(setting))
    if not value:
        return float("inf")
    return value if setting == "batch 1" else 1 / value


def _far(candidate: Candidate) -> tuple[int, bool, float]:
    """Return how far an engine is from fitting: by how many gates and limits it misses, then by how much."""
    open_or_missed = [finding for finding in candidate.findings if finding.state != "holds"]
    missed = [finding for finding in open_or_missed if finding.state == "missed"]
    count = len(missed) + len(candidate.gates)
    return count, bool(candidate.gates), sum(max(0.0, finding.miss) for finding in open_or_missed)


def to_json(choice: Choice, folder: str) -> dict[str, Any]:
    """Return the choice as plain JSON values.

    Args:
        choice: The choice.
        folder: Where the chosen engine lies; may be empty.
    """

    def candidate(each: Candidate) -> dict[str, Any]:
        return {
            "name": each.name,
            "engine_key": each.engine_key,
            "fits": each.fits,
            "gates": list(each.gates),
            "limits": [asdict(finding) | {"says": str(finding)} for finding in each.findings],
        }

    return {
        "fits": choice.chosen is not None,
        "name": choice.chosen.name if choice.chosen else None,
        "folder": folder or None,
        "command": choice.command or None,
        "limits": asdict(choice.limits),
        "rule": choice.rule,
        "setting": choice.setting,
        "candidates": [candidate(each) for each in choice.candidates],
    }


def render(choice: Choice, report: Mapping[str, Any], folder: str) -> Iterator[Any]:
    """Yield what the terminal shows."""
    if choice.chosen is not None:
        yield from _fitting(choice, report, folder)
    else:
        yield from _nothing(choice)
        yield from _next(choice, str((report.get("made") or {}).get("command") or ""))


def _fitting(choice: Choice, report: Mapping[str, Any], folder: str) -> Iterator[Any]:
    from rich.table import Table
    from rich.text import Text

    from toolchain.deliver.report.screen import command_line

    chosen = choice.chosen
    if chosen is None:
        return
    line = next(line for line in report["lines"] if line["name"] == chosen.name)
    others = sum(candidate.fits for candidate in choice.candidates) - 1
    grid = Table.grid(padding=(0, 2))
    grid.add_row(Text("ship", style="green"), Text(chosen.name, style="bold", overflow="fold"))
    grid.add_row(Text("why", style="green"), Text(_why(line, choice, others)))
    for finding in chosen.findings:
        grid.add_row("", Text(f"{finding}: holds{finding.by}"))
    if beside := _best_score(report, choice):
        grid.add_row(Text("not", style="green"), Text(beside, overflow="fold"))
    if folder:
        grid.add_row(Text("folder", style="green"), Text(folder, overflow="fold"))
    yield grid
    if choice.command:
        yield command_line("take    ", choice.command)


def _best_score(report: Mapping[str, Any], choice: Choice) -> str:
    """Return why the engine that the report ships is not the chosen one, or '' if it is."""
    best = next((line["name"] for line in report["lines"] if line["rank"] == 1), None)
    other = next((each for each in choice.candidates if each.name == best and each is not choice.chosen), None)
    if other is None:
        return ""
    reason = "and is not the fastest that fits" if other.fits else "and misses a limit"
    return f"{best}, which the report ships: it has the best score, of accuracy, size and speed together, {reason}"


def _why(line: Line, choice: Choice, others: int) -> str:
    """Return why this engine and no other that fits."""
    value = number(line, time_figure(choice.setting))
    if not value:
        return "the only one that fits" if not others else f"the smallest of {others + 1} that fit"
    pace = (
        f"{quantity(value)} ms a text" if choice.setting == "batch 1" else f"{show(value)} texts/s at {choice.setting}"
    )
    gain = number(line, f"speedup_{choice.setting.replace(' ', '_')}")
    times = f", {ratio(gain)} times as fast as the baseline" if gain and not line["baseline"] else ""
    among = f"the fastest of {others + 1} that fit" if others else "the only one that fits"
    return f"{among}: {pace}{times}, {quantity(line['size_mb'])} MB"


def _nothing(choice: Choice) -> Iterator[Any]:
    """Yield the nearest engines, which limit each misses and by how much, and what could settle it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    yield Text("no engine fits", style="bold red")
    table: Table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("nearest")
    table.add_column("what it misses")
    for candidate in choice.candidates[:NEAREST]:
        table.add_row(Text(candidate.name, overflow="fold"), Text("\n".join(_misses(candidate)), overflow="fold"))
    yield table
    open_ones = [
        candidate
        for candidate in choice.candidates
        if not candidate.gates and all(finding.state != "missed" for finding in candidate.findings)
    ]
    if open_ones:
        yield Text(f"{open_ones[0].name} may fit: the data cannot say; --as-measured takes it on trust", style="yellow")


def _next(choice: Choice, command: str) -> Iterator[Any]:
    """Yield what can be done where nothing fits, by what the nearest engine misses.

    Args:
        choice: The choice.
        command: The command that makes the report again; may be empty.
    """
    from rich.text import Text

    from toolchain.deliver.report.screen import command_line

    nearest = next((candidate for candidate in choice.candidates if not candidate.gates), None)
    if nearest is None:
        return
    states = {finding.limit: finding.state for finding in nearest.findings}
    if command and "cannot say" in (states.get("latency_ms"), states.get("per_s")):
        yield command_line("take the times again, with nothing else running:\n  ", f"{command} --force time")
    if "missed" in states.values():
        yield Text(
            "next: ask for less, or add variants to the recipe that are smaller and faster (docs/smaller.md, "
            "docs/distillation.md) and run it again"
        )


def _misses(candidate: Candidate) -> list[str]:
    """Return what bars an engine: gates, limits, and what would settle those that are open."""
    reasons = [f"may not be shipped: {mark}" for mark in candidate.marks]
    for finding in candidate.findings:
        if finding.state == "missed":
            reasons.append(f"{finding}: missed{finding.by}")
        elif finding.state == "cannot say":
            reasons.append(f"{finding}: cannot say{_settling(finding)}")
    return reasons


def _settling(finding: Finding) -> str:
    """Return what would settle a limit that the data leave open."""
    if finding.needed == MOST_NEEDED:
        return f"; more than {MOST_NEEDED:,} examples would be needed"
    if finding.needed:
        return f"; about {finding.needed:,} examples would do"
    return "; more examples would tell" if finding.limit in ("accuracy", "drop") else "; more rounds would tell"
