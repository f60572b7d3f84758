"""The page's words: what was run, what to ship, how sure that is, how it was made and how to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolchain.deliver.report.figures import show
from toolchain.deliver.report.footnotes import MARKS, worth
from toolchain.deliver.report.metric import of_report
from toolchain.deliver.report.page.lines import Line, models
from toolchain.deliver.report.page.markup import Markup, breakable, fill, join
from toolchain.deliver.report.scenarios import scenarios
from toolchain.deliver.report.take import take


def title(report: Mapping[str, Any]) -> str:
    """Name, number of engines, and what the metric is of."""
    lines = report["lines"]
    examples = max((line.get("examples") or 0 for line in lines), default=0)
    engines = f"{len(lines)} engine{'' if len(lines) == 1 else 's'}"
    metric = of_report(report).name
    return f"{report['name'] or 'report'}: {engines}, {metric} on {show(examples)} {report['split']} examples"


def heading(report: Mapping[str, Any]) -> Markup:
    """What was run, in two lines."""
    name, _, rest = title(report).partition(": ")
    lines = report["lines"]
    runtimes = sorted({line["engine"] for line in lines})
    several = f" Models: {', '.join(models(lines))}." if len(models(lines)) > 1 else ""
    said = f"{rest[:1].upper()}{rest[1:]}.{several} Runtimes: {', '.join(runtimes) or 'none'}. {machine(report)}."
    return fill('<h1>{}</h1><p class="lead">{}</p>', name, said)


def machine(report: Mapping[str, Any]) -> str:
    """What it was measured on."""
    found = report.get("machine") or {}
    parts = [
        found.get("cpu"),
        f"{found['physical_cores']} cores" if found.get("physical_cores") else "",
        f"{found['cpu_quota']:g} CPU quota" if found.get("cpu_quota") else "",
        f"{found['memory_gib']} GiB" if found.get("memory_gib") else "",
        *(found.get("gpus") or ()),
        found.get("system"),
    ]
    return ", ".join(str(part) for part in parts if part) or "The machine is not recorded"


def choices(report: Mapping[str, Any]) -> Markup:
    """The engine for each scenario with its reasons, and the best by each goal."""
    cards = join(
        fill(
            '<article class="card"><h3>{}</h3><p class="choice">{}</p><ul>{}</ul>{}</article>',
            each["scenario"], breakable(each["name"] or "nothing qualifies"), _items(each["reasons"]),
            _taking(report, each["name"]),
        )
        for each in _scenarios(report)
    )  # fmt: skip
    goals = join(
        fill(
            '<tr><th scope="row">{}</th><td><b>{}</b></td><td>{}</td></tr>',
            each["goal"], breakable(each["name"]), each["reason"],
        )
        for each in report["recommendations"]
    )  # fmt: skip
    shown = fill('<div class="cards">{}</div>', cards) if cards else Markup("")
    return shown + (fill('<table class="goals"><tbody>{}</tbody></table>', goals) if goals else Markup(""))


def _items(parts: Iterable[object]) -> Markup:
    """Return the items of a list."""
    return join(fill("<li>{}</li>", part) for part in parts)


def _terms(items: Iterable[tuple[object, object]]) -> Markup:
    """Return a list of terms and what they mean."""
    return fill("<dl>{}</dl>", join(fill("<dt>{}</dt><dd>{}</dd>", *item) for item in items))


def _taking(report: Mapping[str, Any], name: str | None) -> Markup:
    """Return where an engine lies and the command that writes it into a folder, as far as the report says."""
    line = next((line for line in report["lines"] if line["name"] == name), None)
    if line is None:
        return Markup("")
    key = line.get("engine_key")
    folder = fill("In the store: <samp>engine/{}</samp>. ", key) if key else Markup("")
    command = take(str((report.get("made") or {}).get("command") or ""), line, report["lines"])
    words = join((fill("<span>{}</span>", word) for word in command.split(" ")), " ")  # lines break between words alone
    take_it = "Take it into the folder <samp>engine</samp>:<pre><code>{}</code></pre>"
    how = fill(take_it, words) if command else Markup("")
    return fill('<div class="take">{}{}</div>', folder, how) if folder or how else Markup("")


def chosen(report: Mapping[str, Any]) -> set[str]:
    """Names of the engines that are recommended for a scenario or a goal."""
    found = [each["name"] for each in (*_scenarios(report), *report["recommendations"])]
    return {name for name in found if name}


def _scenarios(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The report's own; older ones have none."""
    found: Sequence[Mapping[str, Any]] | None = report.get("scenarios")
    return scenarios(report["lines"]) if found is None else found


def filters(lines: Sequence[Line]) -> Markup:
    """Controls by which a script leaves engines out of table and figures."""

    def choice(name: str, label: str, values: Sequence[str]) -> Markup:
        options = join(fill("<option>{}</option>", value) for value in values)
        field = '<label>{} <select name="{}"><option value="">all</option>{}</select></label>'
        return fill(field, label, name, options)

    runtimes = list(dict.fromkeys(line["engine"] for line in lines))
    parts = [choice("model", "Model", models(lines))] if len(models(lines)) > 1 else []
    parts += [choice("runtime", "Runtime", runtimes)] if len(runtimes) > 1 else []
    return fill(
        '<form class="filters" role="search" aria-label="Filter engines">{}'
        '<label>Name <input type="search" name="text" size="14"></label>'
        '<label><input type="checkbox" name="ships"> may be shipped</label>'
        '<button type="reset">Reset</button><output aria-live="polite"></output></form>',
        join(parts),
    )


def certainty(report: Mapping[str, Any]) -> Markup:
    """What the data settle of the ranking, where the report says so."""
    parts = []
    winner = report.get("winner")
    if winner:
        tied = winner.get("tied") or []
        told = (
            f"is tied with {', '.join(tied)}: the data do not settle which is ahead"
            if tied
            else "is ahead of all others"
        )
        share = winner.get("share")
        under = f" It is first under {show(100 * share)} % of all weights of the score." if share is not None else ""
        parts.append(fill("<p><b>{}</b> {}.{}</p>", winner["name"], told, under))
    items = [
        f"{found['model'] and found['model'] + ', '}seed {found['seed']}: {', '.join(found['engines'])}"
        for found in report.get("fronts") or ()
    ]
    if items:
        unbeaten = "<p>Beaten by no sound engine in {}, size and speed together:</p><ul>{}</ul>"
        parts.append(fill(unbeaten, of_report(report).name, _items(items)))
    return join(parts)


def notes(report: Mapping[str, Any]) -> dict[str, str]:
    """What the columns mean that a report has for a margin."""
    margin = report.get("margin")
    if margin is None:
        return {}
    return {
        "not worse": f"whether it is at most {margin:g} points worse than its baseline, with 95 %: yes, no, or the "
        "examples cannot say",
        "small figures beside a rank": "the ranks that the data leave open, with 95 %",
    }


def made(report: Mapping[str, Any]) -> Markup:
    """Command, machine, versions, settings, and what was left out or failed."""
    found, settings = report.get("made") or {}, report.get("settings") or {}
    command = found.get("command")
    told = (
        fill("<pre><code>{}</code></pre>", command)
        if command
        else fill(
            "<p>This report was written before reports kept their command; run its recipe again to have it here.</p>"
        )
    )
    items = {
        "machine": machine(report),
        "instruction sets": ", ".join(found.get("instruction_sets") or ()),
        "platform": found.get("platform"),
        "versions": ", ".join(f"{name} {version}" for name, version in (found.get("versions") or {}).items()),
        "commit": found.get("commit"),
        "threads": settings.get("threads"),
        "rounds": settings.get("rounds"),
        "texts": settings.get("sample"),
        "seed of the sample": settings.get("seed"),
    }
    listed = _terms((name, value) for name, value in items.items() if value not in (None, ""))
    missing = [("not applicable", each["name"], each["reason"]) for each in report["not_applicable"]]
    missing += [("failed", each["name"], each["error"]) for each in report["failed"]]
    missing += [("not timed", line["name"], line["error"]) for line in report["lines"] if line.get("error")]
    absent = _items(fill("{}: <b>{}</b>: {}", *each) for each in missing)
    notes = _items(report["notes"])
    told += listed
    told += fill("<h3>What is not here</h3><ul>{}</ul>", absent) if absent else Markup("")
    return told + (fill("<h3>Notes</h3><ul>{}</ul>", notes) if notes else Markup(""))


def reading(report: Mapping[str, Any]) -> Markup:
    """The formula, what each column and mark means."""
    weights, metric = report["weights"], of_report(report)
    interval = "95 % Wilson interval" if metric.binary else "95 % interval by the paired bootstrap"
    formula = (
        f"{weights['accuracy']:g} · {worth(metric)} + {weights['compression']:g} · times smaller + "
        f"{weights['speedup']:g} · times faster"
    )
    settings = report.get("settings") or {}
    rounds = f"median of {settings['rounds']} interleaved rounds" if settings.get("rounds") else "medians of rounds"
    items = {
        "score": f"{formula}, at {report['speedup']}",
        "times smaller, times faster": "bytes and time of its baseline over those of the engine; more is better",
        metric.name: f"{report['split']} split with its {interval}; change: on the baseline's examples",
        "time": f"{rounds}; the engine alone, without its tokenizer, batches sorted by length",
        **notes(report),
        "≈": "the data do not settle whether the row or the one above it is ahead",
        "hollow, dashed": "a gate failed that an engine must pass: never recommended",
    }
    seen = {mark for line in report["lines"] for mark in line["marks"]}
    items |= {mark: text for mark, text in MARKS.items() if any(other.startswith(mark) for other in seen)}
    return _terms(items.items())
