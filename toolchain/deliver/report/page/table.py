"""The page's tables; every number is shown rounded and kept whole beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.deliver.report.figures import ASKED, key, quantity, ratio, show
from toolchain.deliver.report.page.lines import Line, barred, number, one_runtime
from toolchain.deliver.report.page.markup import Markup, breakable, escape, fill, join
from toolchain.kinds.contract import Metric

#: How a verdict is shown: a sign, so that no colour is needed.
SIGNS = {True: ("✓", "passed", "good"), False: ("✗", "failed", "bad"), None: ("–", "not run", "quiet")}
LABELLED = ("△", "label", "quiet")

#: What stands below each table.
RANKED = "Ranked by score; tinted: recommended; italics: baselines; below a figure its 95 % interval. Headings sort."
GATES = "✓ passed, ✗ failed, △ a label that bars nothing, – not run. Each opens to its evidence. " + " ".join(
    f"{gate}: {asked}." for gate, asked in ASKED.items()
)
POOLED = "Means over the seeds, with intervals for other seeds where the report has them."
EVERY = "As report.json has them, to six digits; the whole numbers are kept in the page."


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        head: Its heading.
        name: The figure's name in a line.
        told: What it is, in words.
        form: How it is shown.
        interval: How its ends are shown; None where it has none.
    """

    head: str
    name: str
    told: str
    form: Callable[[Any], str]
    interval: Callable[[Any], str] | None = None


def columns(lines: Sequence[Line], settings: Sequence[str], metric: Metric) -> list[Column]:
    """The columns of the ranked table: those whose figures the lines have."""

    def two(value: Any) -> str:
        return show(value, 2)

    def signed(value: Any) -> str:
        return show(value, 2, sign=True)

    what = "share of right labels" if metric.binary else metric.name
    found = [
        Column(metric.heading, "accuracy_percent", f"{what}, with its 95 % interval", two, two),
        Column("change", "accuracy_change_points", "points against its own baseline, same examples", signed, signed),
        Column(
            "p corrected",
            "mcnemar_p_holm",
            "chance of such a change if it made no difference, corrected for many engines",
            _p,
        ),
        Column("p", "mcnemar_p", "chance of such a change if it made no difference (McNemar)", _p),
        Column("not worse", "not_worse", "whether it is at most the margin worse than its baseline, with 95 %", show),
        Column(
            "size MB",
            "size_mb",
            "bytes to download, in millions: the engine with its tokenizer and interface",
            quantity,
        ),
        Column("times smaller", "compression", "bytes of its baseline over bytes of this engine", ratio),
    ]
    if any(number(line, "mcnemar_p_holm") is not None for line in lines):
        found = [column for column in found if column.name != "mcnemar_p"]
    for setting in settings:
        if setting == "batch 1":
            found.append(
                Column("p50 ms", "latency_engine_p50_ms", "median latency of one text, engine alone", quantity)
            )
        else:
            name = f"per_s_sorted_engine_{key(setting)}"
            found.append(Column(f"/s {setting}", name, f"sentences per second at {setting}, sorted by length", show))
        told = f"time of its baseline over time of this engine at {setting}, with its 95 % interval"
        found.append(Column(f"times faster, {setting}", f"speedup_{key(setting)}", told, ratio, ratio))
    found.append(Column("score", "score", "the weighted score that ranks", two))
    return [column for column in found if any(line.get(column.name) is not None for line in lines)]


def ranked(lines: Sequence[Line], settings: Sequence[str], chosen: Collection[str], metric: Metric) -> Markup:
    """The ranked table.

    Args:
        lines: The report's.
        settings: Those that were timed.
        chosen: Names of the engines that are recommended.
        metric: The metric.
    """
    shown = columns(lines, settings, metric)
    ranges = any(line.get("rank_low") is not None for line in lines)
    heads = [
        _head(
            "#", "rank by score" + (", with its 95 % interval" if ranges else "") + "; ≈: within noise of the row above"
        ),
        _head("engine", "model, variant, runtime", kind="name"),
        _head("marks", "what a reader must know beside the numbers", kind="marks", sortable=False),
        *(_head(column.head, column.told) for column in shown),
    ]
    rows = []
    for index, line in enumerate(lines):
        cells = [_rank(line), named(line), _marks(line), *(_cell(line, column) for column in shown)]
        kinds = [*(["baseline"] if line["baseline"] else []), *(["chosen"] if line["name"] in chosen else [])]
        rows.append(fill('<tr data-line="{}" class="{}">{}</tr>', index, " ".join(kinds), join(cells)))
    return fill(
        '<table id="ranking" class="sortable{}"><caption>Engines, ranked by score</caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table>",
        compact(lines), join(heads), join(rows),
    )  # fmt: skip


def meanings(lines: Sequence[Line], settings: Sequence[str], metric: Metric) -> Markup:
    """Return what each column means, for those who cannot point at a heading."""
    known = columns(lines, settings, metric)
    items = join(fill("<dt>{}</dt><dd>{}</dd>", column.head, column.told) for column in known)
    return fill('<details class="more"><summary>What the columns mean</summary><dl>{}</dl></details>', items)


def every(lines: Sequence[Line]) -> Markup:
    """All figures of all engines, one column each, as the JSON has them."""
    plain = [
        name for name in (lines[0] if lines else {})
        if name not in ("name", "marks") and not any(isinstance(line.get(name), (list, dict)) for line in lines)
    ]  # fmt: skip
    heads = join(fill('<th scope="col">{}</th>', breakable(line["name"])) for line in lines)
    rows = []
    for name in plain:
        cells = join(_figure(line.get(name)) for line in lines)
        row = '<tr data-figure="{}"><th scope="row">{}</th>{}</tr>'
        rows.append(fill(row, name, breakable(name, "_"), cells))
    return fill(
        '<table id="figures"><caption>Every figure of every engine</caption><thead><tr>'
        '<th scope="col">figure</th>{}</tr></thead><tbody>{}</tbody></table>',
        heads, join(rows),
    )  # fmt: skip


def pooled(lines: Sequence[Line], settings: Sequence[str], metric: Metric) -> Markup:
    """Engines over their seeds: what holds for other seeds too.

    Args:
        lines: The report's ``pooled``.
        settings: Those that were timed.
        metric: The metric.
    """
    known = columns(lines, settings, metric)
    plain = [column for column in known if column.name.startswith(("acc", "not", "size", "speed"))]
    heads = join(_head(column.head, column.told, sortable=False) for column in plain)
    rows = join(
        fill(
            '<tr><th scope="row" class="name">{}{}</th><td>{}</td>{}</tr>',
            each["name"], _never(each), len(each["seeds"]), join(_cell(each, column) for column in plain),
        )
        for each in lines
    )  # fmt: skip
    return fill(
        '<table id="pooled"><caption>Engines over their seeds</caption><thead><tr>'
        '<th scope="col" class="name">engine</th><th scope="col">seeds</th>{}</tr></thead><tbody>{}</tbody></table>',
        heads, rows,
    )  # fmt: skip


def _never(line: Line) -> Markup:
    """Return what bars an engine over its seeds from being shipped; empty where nothing does."""
    reasons = join(fill('<small class="why">{}</small>', reason) for reason in line.get("barred") or ())
    return fill(' <span class="never">do not ship</span>{}', reasons) if reasons else Markup("")


def gates(lines: Sequence[Line]) -> Markup:
    """Every gate's verdict on every engine, with its evidence."""
    names = list(dict.fromkeys(verdict["gate"] for line in lines for verdict in line.get("gates", ())))
    heads = join(fill('<th scope="col" title="{}">{}</th>', ASKED.get(name, ""), name) for name in names)
    rows = []
    for index, line in enumerate(lines):
        verdicts = {verdict["gate"]: verdict for verdict in line.get("gates", ())}
        cells = join(_verdict(verdicts.get(name)) for name in names)
        rows.append(fill('<tr data-line="{}">{}{}</tr>', index, named(line), cells))
    return fill(
        '<table id="verdicts" class="{}"><caption>Verdicts of the gates</caption><thead><tr>'
        '<th scope="col" class="name">engine</th>{}</tr></thead><tbody>{}</tbody></table>',
        compact(lines).strip(), heads, join(rows),
    )  # fmt: skip


def compact(lines: Sequence[Line]) -> str:
    """A class by which a phone leaves out a runtime that all engines share."""
    return " same" if one_runtime(lines) else ""


def _verdict(found: Any) -> Markup:
    if found is None:
        return Markup('<td class="verdict quiet" data-value="">–</td>')
    sign, word, colour = LABELLED if found.get("label") else SIGNS[found["passed"]]
    said, reason = found["evidence"], found.get("reason") or ""
    told = "; ".join(filter(None, (said, "" if reason in said else reason))) or word
    return fill(
        '<td class="verdict {colour}" data-value="{word}"><details><summary aria-label="{word}">{sign}</summary>'
        "<p>{told}</p></details></td>",
        colour=colour, word=word, sign=sign, told=told,
    )  # fmt: skip


def _head(head: str, told: str, *, kind: str = "", sortable: bool = True) -> Markup:
    classes = " ".join(filter(None, (kind, "sorts" if sortable else "")))
    return fill('<th scope="col" class="{}" title="{}">{}</th>', classes, told, head)


def _rank(line: Line) -> Markup:
    near = "≈ " if line.get("tied_with_previous") else ""
    low, high = line.get("rank_low"), line.get("rank_high")
    reach = fill("<small>{}–{}</small>", low, high) if low is not None and high is not None else ""
    rank = line.get("rank")
    cell = '<td class="rank" data-name="rank" data-value="{}">{}{}{}</td>'
    return fill(cell, _raw(rank), near, show(rank), reach)


def named(line: Line) -> Markup:
    """The cell of an engine's name; what is said of its runtime stands back."""
    name, runtime = str(line["name"]), f"/{line['engine']}"
    head, found, tail = name.rpartition(runtime)
    behind = fill('<wbr><span class="runtime">{}{}</span>', found, tail)
    told = breakable(head) + behind if found else escape(name)
    return fill('<th scope="row" class="name" data-name="name" data-value="{}">{}</th>', name, told)


def _cell(line: Line, column: Column) -> Markup:
    value = line.get(column.name)
    kept = fill('data-name="{}" data-value="{}"', column.name, _raw(value))
    ends = [line.get(f"{column.name}_{end}") for end in ("low", "high")]
    if column.interval is None or None in (value, *ends) or (line["baseline"] and column.name != "accuracy_percent"):
        return fill("<td {}>{}</td>", kept, column.form(value))
    low, high = (column.interval(end) for end in ends)
    kept += fill(' data-low="{}" data-high="{}"', *map(_raw, ends))
    return fill("<td {}>{}<small>{} to {}</small></td>", kept, column.form(value), low, high)


def _marks(line: Line) -> Markup:
    marks = [*line["marks"], *(["not timed"] if line.get("error") else [])]
    reasons = [reason for reason in barred(line) if not any(mark in reason or reason in mark for mark in marks)]
    shown = Markup('<span class="never">do not ship</span>') if barred(line) else Markup("")
    shown += join(fill('<span class="tag">{}</span>', mark) for mark in marks)
    shown += join(fill('<small class="why">{}</small>', reason) for reason in reasons)
    return fill('<td class="marks" data-name="marks" data-value="{}">{}</td>', ", ".join(marks), shown)


def _p(value: Any) -> str:
    return "< 0.001" if isinstance(value, float) and value < 0.001 else show(value, 3)


def _raw(value: Any) -> str:
    """A value whole, as an attribute."""
    return "" if value is None else str(value)


def _figure(value: Any) -> Markup:
    """A cell of a figure of any kind; what is shown shortened is kept whole."""
    shown = _loose(value)
    kept = "" if value is None or shown == str(value) else fill(' data-value="{}"', _raw(value))
    return fill("<td{}>{}</td>", kept, shown)


def _loose(value: Any) -> str:
    """A figure of any kind as text."""
    if value is None or value == "":
        return "–"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
