"""A report on a terminal: the columns that decide, as many as the width holds, and what to ship."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from toolchain.deliver.report.build import Report
from toolchain.deliver.report.figures import Figure, Figures, figures, key, quantity, ratio, show
from toolchain.deliver.report.footnotes import footnotes, title
from toolchain.deliver.report.summary import summary, time_figure

#: Holm's p-value of McNemar's test below which a change of accuracy is starred.
SIGNIFICANT = 0.05

#: The least room for names, in columns: columns that can be left out make room.
LEAST_NAME = 18

LABEL_STYLES = {"failed": "bold red", "not timed": "bold red", "note": "yellow", "not applicable": "yellow"}


@dataclass(frozen=True)
class _Column:
    """One column of the table.

    Attributes:
        head: Its two lines of heading.
        cell: Makes its cells.
        from_width: The least width of a terminal that has room for it.
        note: What is to be known of it, under ``-v``; may be empty.
    """

    head: str
    cell: Callable[[Figures], Text]
    from_width: int = 0
    note: str = ""


def command_line(label: str, command: str) -> RenderableType:
    """Return a command on one line, however long it is, so that it can be copied whole."""
    return Group(Text.assemble((label, "green"), command, no_wrap=True, overflow="ignore"))


def terminal(report: Report, *, command: str = "", page: str = "", verbose: bool = False) -> RenderableType:
    """Return what ``toolchain report`` and ``run`` print; it adapts to the width, from 80 columns on.

    Args:
        report: The report.
        command: What writes the engine that is to be shipped, or says what each lacks where none is; may be empty.
        page: Where the page is; may be empty.
        verbose: Whether footnotes are shown too.
    """
    return _Screen(report, command, page, verbose)


@dataclass(frozen=True)
class _Screen:
    """Chooses its columns when the width is known."""

    report: Report
    command: str
    page: str
    verbose: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [figures(line, self.report.batches) for line in self.report.lines]
        columns = [column for column in _columns(self.report, rows) if column.from_width <= options.max_width]
        yield Text(title(self.report), style="bold")
        if self.report.lines:
            yield self._table(rows, columns, options.max_width)
        yield from self._summary()
        if self.verbose or not self.report.lines:
            yield Text()
            yield self._notes(columns)

    def _table(self, rows: Sequence[Figures], columns: Sequence[_Column], width: int) -> Table:
        cells = [[column.cell(row) for column in columns] for row in rows]
        heads = [Text(column.head) for column in columns]
        # The names get what the figures leave; marks stand below them.
        widths = [max(_width(text) for text in column) for column in zip(heads, *cells, strict=True)]
        room = width - sum(widths) - len(columns) - 3
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, header_style="dim")
        for place, head in enumerate(heads):
            table.add_column(head, justify="right", no_wrap=True)
            if place == 0:
                table.add_column(Text("\nengine"), vertical="top", no_wrap=True)
        apart = False
        for row, line, (rank, *others) in zip(rows, self.report.lines, cells, strict=True):
            if line.barred and not apart:
                apart = True
                table.add_row("", Text("may not be shipped:", style="bold yellow"))
            style = "dim" if row["error"] or line.barred else "bold" if row["rank"] == 1 else ""
            table.add_row(rank, _name(row, room), *others, style=style)
        return table

    def _summary(self) -> Iterator[RenderableType]:
        grid = Table.grid(padding=(0, 2))
        for label, text in summary(self.report, self.page):
            grid.add_row(
                Text(label, style="green", no_wrap=True),
                Text(text, style="bold" if label == "ship" else "", overflow="fold"),
            )
        yield grid
        if self.command and self.report.lines:
            yield command_line("take  " if self.report.recommendations else "next  ", self.command)

    def _notes(self, columns: Sequence[_Column]) -> Table:
        grid = Table.grid(padding=(0, 2))
        of_columns = [(" ".join(column.head.split()), column.note) for column in columns if column.note]
        for label, text in of_columns + footnotes(self.report):
            style = LABEL_STYLES.get(label, "dim")
            grid.add_row(Text(label, style=style), Text(text, style="dim" if style == "dim" else ""))
        return grid


def _columns(report: Report, rows: Sequence[Figures]) -> list[_Column]:
    """All columns but the names, in order; the widest terminals get all of them."""
    metric = report.kind.METRIC
    starred = "; * more than chance (exact McNemar test, all engines together)" if metric.binary else ""
    columns = [
        _Column("\n#", _rank),
        _Column(f"{metric.name}\n{metric.unit}", lambda row: Text(show(row["accuracy_percent"], 2))),
        _Column("±\n95 %", _reach, from_width=100, note=f"half of the 95 % interval of the {metric.name}"),
        _Column(
            "change,\npoints", _change, from_width=92,
            note=f"{metric.name} against the baseline{starred}",
        ),
        _Column(
            f"≤ {report.margin:g}\nworse", _not_worse, from_width=116,
            note=f"whether it is at most {report.margin:g} points worse than the baseline; ? the examples cannot say",
        ),
        _Column(f"{report.kind.WORDS[1]}\nchanged", lambda row: Text(show(row["label_flips"])), from_width=132),
        _Column("size\nMB", _shown("size_mb", rows, min, quantity)),
        _Column("times\nsmaller", _smaller, note="bytes of the baseline over its own"),
    ]  # fmt: skip
    for setting in _settings(report):
        width = 0 if setting == report.speedup else 108
        note = f"time of the baseline over its own at {setting}, in the same rounds"
        head, best = ("ms a\ntext", min) if setting == "batch 1" else (f"texts/s\n{setting}", max)
        form = quantity if setting == "batch 1" else show
        columns += [
            _Column(head, _shown(time_figure(setting), rows, best, form), width),
            _Column("times\nfaster", _gain(f"speedup_{key(setting)}"), width, note),
        ]
    return [*columns, _Column("\nscore", lambda row: Text(show(row["score"], 2)))]


def _settings(report: Report) -> list[str]:
    """Return batch 1, and the batch that the score counts or else the largest."""
    others = [setting for setting in report.batches if setting != "batch 1"]
    second = report.speedup if report.speedup in others else (others[-1] if others else "")
    return [setting for setting in ("batch 1", second) if setting in report.batches]


def _width(text: Text) -> int:
    """Terminal columns that the longest line of a text takes."""
    return max(line.cell_len for line in text.split("\n"))


def _name(row: Figures, room: int) -> Text:
    """A name with its marks below it; what is too long goes on, indented, after a slash, a dash or a comma."""
    name = Text(_broken(str(row["name"]), "/-", room), style="italic" if row["baseline"] else "")
    marks = ", ".join(filter(None, (str(row["marks"]), "not timed" if row["error"] else "")))
    if marks:
        style = "dim" if marks == "baseline" else "yellow"
        text = marks.replace("slower at batch ", "slower @")
        name = name + Text("\n") + Text("  " + _broken(text, " ", room - 2).replace("\n", "\n  "), style=style)
    return name


def _broken(text: str, after: str, room: int) -> str:
    """Return a text whose lines are no longer than the room, broken only after one of some signs."""
    parts = [""]
    for sign in text:
        parts[-1] += sign
        if sign in after:
            parts.append("")
    lines = [""]
    for part in parts:
        indent = "  " if len(lines) > 1 else ""
        if len((indent + lines[-1] + part).rstrip()) > max(room, LEAST_NAME) and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n  ".join(line.rstrip() for line in lines)


def _smaller(row: Figures) -> Text:
    return Text(ratio(row["compression"]))


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
    """Cells of a figure, green where it is the best of those that are ranked; "size only" does not compete in time."""
    timed = name != "size_mb"
    competing = [row for row in rows if row.get(name) is not None and row["rank"] and not (timed and row["size_only"])]
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


def _number(value: Figure) -> float:
    return float(value) if value is not None else 0.0
