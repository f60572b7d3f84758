"""Several runs side by side as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.deliver.report.compare_text import by_accuracy, heading, on_front, settings_on
from toolchain.deliver.report.figures import key, quantity, ratio, show
from toolchain.deliver.report.metric import of_report
from toolchain.deliver.report.page import planes, table
from toolchain.deliver.report.page.document import WIDTHS, assemble, both, figure, known, scroll
from toolchain.deliver.report.page.markup import Markup, breakable, fill, join

#: What stands below each table.
SIZES = (
    "The most accurate first, with 95 % intervals. CR is against the baseline of the engine's own run. Headings sort."
)
TIMES = "IS is against the baseline of the engine's own run, in the same rounds, with its 95 % interval. Headings sort."


def html(comparison: Mapping[str, Any]) -> str:
    """The page of a comparison.

    Args:
        comparison: What ``compare`` gave.
    """
    rules = fill("<ul>{}</ul>", join(fill("<li>{}</li>", rule) for rule in comparison["rules"]))
    parts = [("runs", "Runs", _runs(comparison)), ("rules", "What is compared", rules)]
    for at, test_set in enumerate(comparison["test_sets"]):
        title = f"{of_report(test_set).title} and size: {test_set['told']}"
        parts.append((f"accuracy-{at}", title, _sizes(comparison, test_set) + _scatter(comparison, test_set)))
    for at, machine in enumerate(comparison["machines"]):
        parts.append((f"times-{at}", f"Times: {machine['told']}", _times(comparison, machine)))
    parts.append(("same", "Engines of one name in several runs", _same(comparison)))
    runs = ", ".join(run["label"] for run in comparison["runs"])
    header = fill('<h1>{}</h1><p class="lead">{}</p>', heading(comparison), runs)
    metric = of_report(next(iter(comparison["test_sets"]), {}))
    return assemble(heading(comparison), header, parts, known(comparison["lines"], [], metric))


def _runs(comparison: Mapping[str, Any]) -> Markup:
    named = (("run", "name"), ("engines", ""), ("machine", "words"), ("threads", ""), ("command", "words"))
    heads = join(fill('<th scope="col" class="{}">{}</th>', kind, head) for head, kind in named)
    rows = join(
        fill(
            '<tr><th scope="row" class="name">{}</th><td>{}</td><td class="words">{}</td><td>{}</td>'
            '<td class="words"><code>{}</code></td></tr>',
            run["label"], show(run["engines"]), run["machine"], show(run["threads"]), run["command"] or "-",
        )
        for run in comparison["runs"]
    )  # fmt: skip
    table_of_runs = "<table><caption>Runs</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
    body = fill(table_of_runs, heads, rows)
    return scroll(body, "Runs", "Commands are those that the reports keep; older reports keep none.")


def _scatter(comparison: Mapping[str, Any], test_set: Mapping[str, Any]) -> Markup:
    """Accuracy over size of all runs of a test set: the shape of a mark tells the run."""
    places = {id(line): place for place, line in enumerate(by_accuracy(comparison, test_set), start=1)}
    inside = [index for index, line in enumerate(comparison["lines"]) if id(line) in places]
    lines = [
        {
            **comparison["lines"][index],
            "model": comparison["lines"][index]["run"],
            "rank": places[id(comparison["lines"][index])],
        }
        for index in inside
    ]
    along = planes.abscissas([])[0]
    metric = of_report(test_set)
    drawn = both(planes.scatter(lines, along, metric, narrow=narrow, shapes="run", of=inside) for _, narrow in WIDTHS)
    return figure(drawn)


def _sizes(comparison: Mapping[str, Any], test_set: Mapping[str, Any]) -> Markup:
    heads = [("#", "sorts"), ("run", "words sorts"), ("engine", "name sorts")]
    heads += [
        (of_report(test_set).heading, "sorts"),
        ("size MB", "sorts"),
        ("CR", "sorts"),
        ("front", "sorts"),
        ("gates", "marks"),
    ]
    index = {id(line): at for at, line in enumerate(comparison["lines"])}
    rows = []
    for place, line in enumerate(by_accuracy(comparison, test_set), start=1):
        first = on_front(line, test_set)
        cells = (
            _cell("place", place, show(place))
            + _words("run", line["run"])
            + table.named(line)
            + _ranged(line, "accuracy_percent", digits=True)
            + _cell("size_mb", line["size_mb"], quantity(line["size_mb"]))
            + _cell("compression", line["compression"], ratio(line["compression"]))
            + _cell("front", "yes" if first else "", "✓" if first else "")
            + fill('<td class="marks">{}</td>', "" if line["sound"] else "failed a gate")
        )
        row = '<tr data-line="{}" class="{}">{}</tr>'
        rows.append(fill(row, index[id(line)], "chosen" if first else "", cells))
    name = f"{of_report(test_set).title} and size, {test_set['told']}"
    return scroll(
        _table(name, heads, rows, f"sortable{table.compact(comparison['lines'])}"),
        name,
        f"{SIZES} Tinted: no sound engine is as right and smaller.",
    )


def _times(comparison: Mapping[str, Any], machine: Mapping[str, Any]) -> Markup:
    settings = settings_on(comparison, machine)
    if not settings:
        return Markup("<p>Nothing was timed.</p>")
    heads = [("run", "words sorts"), ("engine", "name sorts")]
    for setting in settings:
        heads += [("p50 ms" if setting == "batch 1" else f"/s {setting}", "sorts"), (f"IS {setting}", "sorts")]
    rows = []
    for at, line in enumerate(comparison["lines"]):
        if line["run"] not in machine["runs"]:
            continue
        cells = _words("run", line["run"]) + table.named(line)
        for setting in settings:
            timed = "latency_engine_p50_ms" if setting == "batch 1" else f"per_s_sorted_engine_{key(setting)}"
            shown = (quantity if setting == "batch 1" else show)(line.get(timed))
            cells += _cell(timed, line.get(timed), shown) + _ranged(line, f"speedup_{key(setting)}", digits=False)
        rows.append(fill('<tr data-line="{}">{}</tr>', at, cells))
    name = f"Times, {machine['told']}"
    return scroll(_table(name, heads, rows, f"sortable{table.compact(comparison['lines'])}"), name, TIMES)


def _same(comparison: Mapping[str, Any]) -> Markup:
    """Speedups of one engine in each run that has it, each against that run's own baseline."""
    if not comparison["same"]:
        return Markup("")
    runs = [run["label"] for run in comparison["runs"]]
    settings = sorted(
        {setting for run in comparison["runs"] for setting in run["settings"]}, key=lambda s: int(s.split()[1])
    )
    heads = [("engine", "name"), ("engines", "marks")]
    heads += [(f"{run}: IS {setting}", "") for setting in settings for run in runs]
    rows = []
    for each in comparison["same"]:
        cells = fill('<th scope="row" class="name">{}</th>', breakable(each["name"]))
        cells += fill('<td class="marks">{}</td>', "one" if each["one_engine"] else "different")
        for setting in settings:
            for run in runs:
                at = each["lines"].get(run)
                line = {} if at is None else comparison["lines"][at]
                cells += _ranged(line, f"speedup_{key(setting)}", digits=False)
        rows.append(fill("<tr>{}</tr>", cells))
    body = _table("Engines of one name in several runs", heads, rows, "")
    return scroll(
        body, "Engines of one name in several runs", "A column is one run's own ratio; columns are not divided."
    )


def _table(name: str, heads: Sequence[tuple[str, str]], rows: Sequence[Markup], kind: str) -> Markup:
    cells = join(fill('<th scope="col" class="{}">{}</th>', kind, head) for head, kind in heads)
    return fill(
        '<table class="{}"><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>',
        kind, name, cells, join(rows),
    )  # fmt: skip


def _cell(name: str, value: Any, shown: str) -> Markup:
    return fill('<td data-name="{}" data-value="{}">{}</td>', name, "" if value is None else value, shown)


def _words(name: str, value: str) -> Markup:
    return fill('<td class="words" data-name="{}" data-value="{}">{}</td>', name, value, value)


def _ranged(line: Mapping[str, Any], name: str, *, digits: bool) -> Markup:
    """A figure with its interval below it."""
    value = line.get(name)
    if value is None:
        return _cell(name, None, "-")
    told, low, high = (
        show(line.get(f"{name}{end}"), 2) if digits else ratio(line.get(f"{name}{end}"))
        for end in ("", "_low", "_high")
    )
    cell = '<td data-name="{}" data-value="{}">{}<small>{} to {}</small></td>'
    return fill(cell, name, value, told, low, high)
