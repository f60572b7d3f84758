"""Several runs side by side as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from toolchain.deliver.report.compare_text import by_accuracy, heading, on_front, settings_on
from toolchain.deliver.report.figures import key, quantity, ratio, show
from toolchain.deliver.report.page import planes, table
from toolchain.deliver.report.page.document import WIDTHS, assemble, both, figure, known, scroll

#: What stands below each table.
SIZES = (
    "The most accurate first, with 95 % intervals. CR is against the baseline of the engine's own run. Headings sort."
)
TIMES = "IS is against the baseline of the engine's own run, in the same rounds, with its 95 % interval. Headings sort."


def html(found: Mapping[str, Any]) -> str:
    """The page of a comparison.

    Args:
        found: What ``compare`` gave.
    """
    rules = "".join(f"<li>{escape(rule)}</li>" for rule in found["rules"])
    parts = [("runs", "Runs", _runs(found)), ("rules", "What is compared", f"<ul>{rules}</ul>")]
    for at, test_set in enumerate(found["test_sets"]):
        told = f"Accuracy and size: {escape(test_set['told'])}"
        parts.append((f"accuracy-{at}", told, _sizes(found, test_set) + _scatter(found, test_set)))
    for at, machine in enumerate(found["machines"]):
        parts.append((f"times-{at}", f"Times: {escape(machine['told'])}", _times(found, machine)))
    parts.append(("same", "Engines of one name in several runs", _same(found)))
    runs = ", ".join(run["label"] for run in found["runs"])
    header = f'<h1>{escape(heading(found))}</h1><p class="lead">{escape(runs)}</p>'
    return assemble(heading(found), header, parts, known(found["lines"], []))


def _runs(found: Mapping[str, Any]) -> str:
    named = (("run", "name"), ("engines", ""), ("machine", "words"), ("threads", ""), ("command", "words"))
    heads = "".join(f'<th scope="col" class="{kind}">{head}</th>' for head, kind in named)
    rows = "".join(
        f'<tr><th scope="row" class="name">{escape(run["label"])}</th><td>{show(run["engines"])}</td>'
        f'<td class="words">{escape(run["machine"])}</td><td>{show(run["threads"])}</td>'
        f'<td class="words"><code>{escape(run["command"] or "-")}</code></td></tr>'
        for run in found["runs"]
    )
    body = f"<table><caption>Runs</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return scroll(body, "Runs", "Commands are those that the reports keep; older reports keep none.")


def _scatter(found: Mapping[str, Any], test_set: Mapping[str, Any]) -> str:
    """Accuracy over size of all runs of a test set: the shape of a mark tells the run."""
    places = {id(line): place for place, line in enumerate(by_accuracy(found, test_set), start=1)}
    inside = [index for index, line in enumerate(found["lines"]) if id(line) in places]
    lines = [
        {**found["lines"][index], "model": found["lines"][index]["run"], "rank": places[id(found["lines"][index])]}
        for index in inside
    ]
    along = planes.abscissas([])[0]
    drawn = both(planes.scatter(lines, along, narrow=narrow, shapes="run", of=inside) for _, narrow in WIDTHS)
    return figure(drawn)


def _sizes(found: Mapping[str, Any], test_set: Mapping[str, Any]) -> str:
    heads = [("#", "sorts"), ("run", "words sorts"), ("engine", "name sorts")]
    heads += [("accuracy %", "sorts"), ("size MB", "sorts"), ("CR", "sorts"), ("front", "sorts"), ("gates", "marks")]
    index = {id(line): at for at, line in enumerate(found["lines"])}
    rows = []
    for place, line in enumerate(by_accuracy(found, test_set), start=1):
        first = on_front(line, test_set)
        cells = (
            _cell("place", place, show(place))
            + _words("run", line["run"])
            + table.named(line)
            + _ranged(line, "accuracy_percent", digits=True)
            + _cell("size_mb", line["size_mb"], quantity(line["size_mb"]))
            + _cell("compression", line["compression"], ratio(line["compression"]))
            + f'<td data-name="front" data-value="{"yes" if first else ""}">{"✓" if first else ""}</td>'
            + f'<td class="marks">{"" if line["sound"] else "failed a gate"}</td>'
        )
        rows.append(f'<tr data-line="{index[id(line)]}" class="{"chosen" if first else ""}">{cells}</tr>')
    name = f"Accuracy and size, {test_set['told']}"
    return scroll(
        _table(name, heads, rows, f"sortable{table.compact(found['lines'])}"),
        escape(name),
        f"{SIZES} Tinted: no sound engine is as right and smaller.",
    )


def _times(found: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    settings = settings_on(found, machine)
    if not settings:
        return "<p>Nothing was timed.</p>"
    heads = [("run", "words sorts"), ("engine", "name sorts")]
    for setting in settings:
        heads += [("p50 ms" if setting == "batch 1" else f"/s {setting}", "sorts"), (f"IS {setting}", "sorts")]
    rows = []
    for at, line in enumerate(found["lines"]):
        if line["run"] not in machine["runs"]:
            continue
        cells = _words("run", line["run"]) + table.named(line)
        for setting in settings:
            timed = "latency_engine_p50_ms" if setting == "batch 1" else f"per_s_sorted_engine_{key(setting)}"
            shown = (quantity if setting == "batch 1" else show)(line.get(timed))
            cells += _cell(timed, line.get(timed), shown) + _ranged(line, f"speedup_{key(setting)}", digits=False)
        rows.append(f'<tr data-line="{at}">{cells}</tr>')
    name = f"Times, {machine['told']}"
    return scroll(_table(name, heads, rows, f"sortable{table.compact(found['lines'])}"), escape(name), TIMES)


def _same(found: Mapping[str, Any]) -> str:
    """Speedups of one engine in each run that has it, each against that run's own baseline."""
    if not found["same"]:
        return ""
    runs = [run["label"] for run in found["runs"]]
    settings = sorted(
        {setting for run in found["runs"] for setting in run["settings"]}, key=lambda s: int(s.split()[1])
    )
    heads = [("engine", "name"), ("engines", "marks")]
    heads += [(f"{run}: IS {setting}", "") for setting in settings for run in runs]
    rows = []
    for each in found["same"]:
        cells = f'<th scope="row" class="name">{escape(each["name"]).replace("/", "/<wbr>")}</th>'
        cells += f'<td class="marks">{"one" if each["one_engine"] else "different"}</td>'
        for setting in settings:
            for run in runs:
                at = each["lines"].get(run)
                line = {} if at is None else found["lines"][at]
                cells += _ranged(line, f"speedup_{key(setting)}", digits=False)
        rows.append(f"<tr>{cells}</tr>")
    body = _table("Engines of one name in several runs", heads, rows, "")
    return scroll(
        body, "Engines of one name in several runs", "A column is one run's own ratio; columns are not divided."
    )


def _table(name: str, heads: Sequence[tuple[str, str]], rows: Sequence[str], kind: str) -> str:
    cells = "".join(f'<th scope="col" class="{kind}">{escape(head)}</th>' for head, kind in heads)
    return (
        f'<table class="{kind}"><caption>{escape(name)}</caption><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(name: str, value: Any, shown: str) -> str:
    return f'<td data-name="{name}" data-value="{"" if value is None else value}">{escape(shown)}</td>'


def _words(name: str, value: str) -> str:
    return f'<td class="words" data-name="{name}" data-value="{escape(value)}">{escape(value)}</td>'


def _ranged(line: Mapping[str, Any], name: str, *, digits: bool) -> str:
    """A figure with its interval below it."""
    value = line.get(name)
    if value is None:
        return _cell(name, None, "-")
    told, low, high = (
        show(line.get(f"{name}{end}"), 2) if digits else ratio(line.get(f"{name}{end}"))
        for end in ("", "_low", "_high")
    )
    return f'<td data-name="{name}" data-value="{value}">{told}<small>{low} to {high}</small></td>'
