"""A report on a terminal: the columns that decide, as many as the width holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from toolchain.deliver.report.build import Report
from toolchain.deliver.report.figures import Figure, Figures, figures, key, quantity, ratio, show
from toolchain.deliver.report.footnotes import footnotes, title

#: Holm's p-value of McNemar's test below which a change of accuracy is starred.
SIGNIFICANT = 0.05

#: From this many columns on, the table breathes.
WIDE = 120

LABEL_STYLES = {
    "failed": "bold red",
    "gate missed": "bold red",
    "not timed": "bold red",
    "note": "yellow",
    "not applicable": "yellow",
}


@dataclass(frozen=True)
class _Column:
    """One column of the table.

    Attributes:
        head: Its two lines of heading.
        cell: Makes its cells.
        from_width: The least width of a terminal that has room for it.
        group: Whether a group of columns begins here, set off by a space.
    """

    head: str
    cell: Callable[[Figures], Text]
    from_width: int = 0
    group: bool = False


def terminal(report: Report) -> RenderableType:
    """What ``toolchain report`` and ``run`` print; it adapts to the width, from 80 columns on."""
    return _Screen(report)


@dataclass(frozen=True)
class _Screen:
    """Chooses its columns when the width is known."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(title(self.report), style="bold")
        if self.report.lines:
            yield self._table(options.max_width)
        if self.report.recommendations:
            yield Padding(self._chosen(), (0, 0, 1, 0))
        yield self._notes()

    def _table(self, width: int) -> Table:
        report = self.report
        rows = [figures(line, report.batches) for line in report.lines]
        columns = [column for column in _columns(report, rows) if column.from_width <= width]
        gap = 1 if width >= WIDE else 0
        cells = [[_set_off(column, column.cell(row)) for column in columns] for row in rows]
        heads = [_set_off(column, Text(column.head)) for column in columns]
        # The names get what the figures and the marks leave, and are broken at a slash rather than in a word.
        widths = [max(_width(text) for text in column) for column in zip(heads, *cells, strict=True)]
        # Besides what stands in them: a space between columns, one at each edge, and the padding.
        room = width - sum(widths) - (len(columns) + 2) - gap * (len(columns) + 1)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
        for place, head in enumerate(heads):
            table.add_column(head, justify="left" if place == len(heads) - 1 else "right", no_wrap=True)
            if place == 0:
                table.add_column(Text("\nengine"), vertical="top")
        for row, (rank, *others) in zip(rows, cells, strict=True):
            style = "dim" if row["error"] else "bold" if row["rank"] == 1 else ""
            table.add_row(rank, _name(row, room), *others, style=style)
        return table

    def _chosen(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        for chosen in self.report.recommendations:
            name = Text(chosen.name, style="bold", overflow="fold")
            grid.add_row(Text(chosen.goal, style="green", no_wrap=True), name, Text(chosen.reason))
        return grid

    def _notes(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        columns = [("@N", "at batch size N: ms is the median latency, /s is sentences per second")]
        for label, text in (columns if self.report.batches else []) + footnotes(self.report):
            style = LABEL_STYLES.get(label, "dim")
            grid.add_row(Text(label, style=style, no_wrap=True), Text(text, style="dim" if style == "dim" else ""))
        return grid


def _columns(report: Report, rows: Sequence[Figures]) -> list[_Column]:
    """All columns but the names, in order; the widest terminals get all of them."""
    found = [
        _Column("\n#", _rank),
        _Column("acc.\n%", lambda row: Text(show(row["accuracy_percent"], 2))),
        _Column("\n95 %", _reach, from_width=92),
        _Column("change\npoints", _change),
        _Column(f"≤{report.margin:g}\nworse", _not_worse, from_width=108),
        _Column("label\nflips", lambda row: Text(show(row["label_flips"])), from_width=132),
        _Column("size\nMB", _shown("size_mb", rows, min, quantity), group=True),
        _Column("\nCR", lambda row: Text(ratio(row["compression"]))),
    ]
    if "batch 1" in report.batches:
        found += [
            _Column("ms\n@1", _shown("latency_engine_p50_ms", rows, min, quantity), group=True),
            _Column("IS\n@1", _gain("speedup_batch_1")),
        ]
    batch = _second_setting(report)
    if batch:
        named, at = key(batch), f"@{batch.split()[1]}"
        width = 92 if report.speedup != batch else 0
        found += [
            _Column(f"/s\n{at}", _shown(f"per_s_sorted_engine_{named}", rows, max, show), width, group=True),
            _Column(f"IS\n{at}", _gain(f"speedup_{named}"), width),
        ]
    score = _Column("\nWS", lambda row: Text(show(row["score"], 2), style="bold"), group=True)
    return [*found, score, _Column("\n", _marks, group=True)]


def _second_setting(report: Report) -> str:
    """The batch shown beside batch 1: the one that WS counts, or else the largest."""
    others = [setting for setting in report.batches if setting != "batch 1"]
    return report.speedup if report.speedup in others else (others[-1] if others else "")


def _width(text: Text) -> int:
    """Terminal columns that the longest line of a text takes."""
    return max(line.cell_len for line in text.split("\n"))


def _set_off(column: _Column, text: Text) -> Text:
    """The text, after one more space on each of its lines where a group begins."""
    return Text("\n").join(Text(" ") + line for line in text.split("\n")) if column.group else text


def _name(row: Figures, room: int) -> Text:
    """A name; one that is too long goes on after a slash, indented, on the next line."""
    lines = [""]
    for part in str(row["name"]).replace("/", "/\n").split("\n"):
        if len(lines[-1] + part) > room and lines[-1].strip():
            lines.append("  ")
        lines[-1] += part
    return Text("\n".join(lines), style="italic" if row["baseline"] else "", overflow="fold")


def _rank(row: Figures) -> Text:
    return Text(("≈ " if row["tied_with_previous"] else "") + show(row["rank"]))


def _reach(row: Figures) -> Text:
    low, high = row["accuracy_percent_low"], row["accuracy_percent_high"]
    return Text(f"±{show((_number(high) - _number(low)) / 2, 1)}", style="dim")


def _change(row: Figures) -> Text:
    """The change of accuracy: starred, and coloured, where it is more than chance."""
    if row["baseline"]:
        return Text("- ", style="dim")
    change, p_value = row["accuracy_change_points"], row["mcnemar_p_holm"]
    significant = p_value is not None and _number(p_value) < SIGNIFICANT
    colour = "red" if _number(change) < 0 else "green"
    return Text(show(change, 2, sign=True) + ("*" if significant else " "), style=colour if significant else "")


def _not_worse(row: Figures) -> Text:
    """The verdict on the margin, in the fewest letters."""
    answer = show(row["not_worse"])
    return Text({"cannot say": "?"}.get(answer, answer), style={"yes": "green", "no": "red"}.get(answer, "dim"))


def _shown(
    name: str, rows: Sequence[Figures], best: Callable[[list[float]], float], form: Callable[[Figure], str]
) -> Callable[[Figures], Text]:
    """Cells of a figure, green where it is the best of all; a "size only" row does not compete in time."""
    timed = name != "size_mb"
    competing = [row for row in rows if row.get(name) is not None and not (timed and row["size_only"])]
    target = best([_number(row[name]) for row in competing]) if len(competing) > 1 else None

    def cell(row: Figures) -> Text:
        wins = row in competing and row[name] == target
        return Text(form(row.get(name)), style="green" if wins else "")

    return cell


def _gain(name: str) -> Callable[[Figures], Text]:
    """Cells of an IS: dim where its interval leaves open whether there is a gain, red where there is a loss."""

    def cell(row: Figures) -> Text:
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        slower, faster = high is not None and _number(high) < 1, low is not None and _number(low) > 1
        return Text(ratio(row.get(name)), style="red" if slower else "" if faster else "dim")

    return cell


def _marks(row: Figures) -> Text:
    """The marks, one a line and shortened; a row without a time says so."""
    if row["error"]:
        return Text("not timed", style="red")
    text = str(row["marks"]).replace("slower at batch ", "slower @").replace(", ", "\n")
    return Text(text, style="dim" if text == "baseline" else "yellow")


def _number(value: Figure) -> float:
    return float(value) if value is not None else 0.0
