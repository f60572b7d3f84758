"""What stands below the table on a terminal: what to ship, why, how sure that is, and where the page is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from toolchain.deliver.report.build import Report
from toolchain.deliver.report.figures import key, quantity, ratio, show
from toolchain.deliver.report.footnotes import tied_with
from toolchain.deliver.report.limits import wanted
from toolchain.deliver.report.line import Line

#: How many reasons are counted by name.
NAMED = 3


def summary(report: Report, page: str = "") -> list[tuple[str, str]]:
    """Return ``(label, text)`` of at most nine lines of 80 columns.

    Args:
        report: The report.
        page: Where the page is, or how to get it; may be empty.
    """
    barred = [line for line in report.lines if line.barred]
    chosen = _chosen(report)
    rows: list[tuple[str, str]] = []
    if chosen is None and report.lines:
        rows.append(("ship", "nothing: no engine may be shipped"))
    if chosen is not None:
        rows += [("ship", chosen.name), ("why", _why(report, chosen)), ("sure", _sure(report, chosen))]
    if barred:
        rows.append(("not", f"{_counted(barred)}; asked: {wanted(report.limits, report.kind.METRIC)}"))
    more = _more(report)
    if page or more:
        rows.append(("page", page + (f" (-v: {more})" if more else "")))
    return rows


def _chosen(report: Report) -> Line | None:
    """Return the engine to ship: the first of the recommendations, which is the best by score where there is one."""
    names = [item.name for item in report.recommendations]
    return next((line for line in report.lines if names and line.name == names[0]), None)


def _why(report: Report, line: Line) -> str:
    among = sum(not each.barred for each in report.lines)
    what = (
        f"{report.recommendations[0].goal} of the {among} that may be shipped" if among > 1 else "nothing else is left"
    )
    figures = [f"{quantity(line.size_mb)} MB" + _times(line.compression, "smaller", line)]
    if report.speedup in line.settings:
        timed = line.measured(report.speedup)
        pace = (
            f"{quantity(timed['p50_ms'])} ms a text"
            if report.speedup == "batch 1"
            else (f"{show(timed['median_per_s'])} texts/s at {report.speedup}")
        )
        gain = line.speedup_of("engine").get(report.speedup)
        figures.append(pace + _times(gain.estimate if gain else None, "as fast", line))
    if line.row.baseline:
        figures.append("the baseline itself")
    elif line.difference is not None:
        figures.append(f"{show(100 * line.difference.estimate, 2, sign=True)} points of {report.kind.METRIC.name}")
    return f"{what}: {', '.join(figures)}" + ("; size only: not for speed" if line.size_only else "")


def _times(value: float | None, words: str, line: Line) -> str:
    return "" if value is None or line.row.baseline else f" ({ratio(value)} times {words})"


def _sure(report: Report, line: Line) -> str:
    """Return what the data settle: the order, and whether the margin holds."""
    parts = []
    winner = report.winner
    if winner and winner.name == line.name and sum(each.rank is not None for each in report.lines) > 1:
        parts.append(f"tied (≈) with {tied_with(winner, 1)}" if winner.tied else "settled, ahead of all others")
    if line.not_worse is not None:
        parts.append(f"at most {report.margin:g} points worse: {line.not_worse}")
    if line.row.objection:
        parts.append(f"its {report.kind.METRIC.name} is not certified")
    if line.unstable(report.speedup):
        parts.append("its times are unstable")
    return "; ".join(parts) or "nothing else to compare it with"


def _counted(barred: Sequence[Line]) -> str:
    """Return the first reason of each engine, the most frequent first."""
    marks = Counter(line.barred[0].partition(":")[0] for line in barred).most_common()
    counts = [f"{mark} ({count})" for mark, count in marks[:NAMED]]
    return ", ".join(counts) + (", …" if len(marks) > NAMED else "")


def _more(report: Report) -> str:
    """Return what is left out here and stands on the page."""
    counts = {
        "failed": len(report.failed),
        "not run": len(report.not_run),
        "not applicable": len(report.not_applicable),
        "notes": len(report.notes),
    }
    return ", ".join(
        f"{count} {name if count > 1 else name.removesuffix('s')}" for name, count in counts.items() if count
    )


def time_figure(setting: str) -> str:
    """Return the name of the figure that a setting's time is."""
    return "latency_engine_p50_ms" if setting == "batch 1" else f"per_s_sorted_engine_{key(setting)}"
