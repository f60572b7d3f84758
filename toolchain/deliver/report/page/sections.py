"""The page's words: what was run, what to ship, how sure that is, how it was made and how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from toolchain.deliver.report.figures import show
from toolchain.deliver.report.footnotes import MARKS
from toolchain.deliver.report.page.lines import Line, models
from toolchain.deliver.report.scenarios import scenarios
from toolchain.deliver.report.take import take


def title(report: Mapping[str, Any]) -> str:
    """Name, number of engines, and what accuracy is of."""
    lines = report["lines"]
    examples = max((line.get("examples") or 0 for line in lines), default=0)
    engines = f"{len(lines)} engine{'' if len(lines) == 1 else 's'}"
    return f"{report['name'] or 'report'}: {engines}, accuracy on {show(examples)} {report['split']} examples"


def heading(report: Mapping[str, Any]) -> str:
    """What was run, in two lines."""
    name, _, rest = title(report).partition(": ")
    lines = report["lines"]
    runtimes = sorted({line["engine"] for line in lines})
    several = f" Models: {', '.join(models(lines))}." if len(models(lines)) > 1 else ""
    said = f"{rest[:1].upper()}{rest[1:]}.{several} Runtimes: {', '.join(runtimes) or 'none'}. {machine(report)}."
    return f'<h1>{escape(name)}</h1><p class="lead">{escape(said)}</p>'


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


def choices(report: Mapping[str, Any]) -> str:
    """The engine for each scenario with its reasons, and the best by each goal."""
    cards = "".join(
        f'<article class="card"><h3>{escape(each["scenario"])}</h3>'
        f'<p class="choice">{_breakable(each["name"] or "nothing qualifies")}</p>'
        f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in each['reasons'])}</ul>"
        f"{_taking(report, each['name'])}</article>"
        for each in _scenarios(report)
    )
    goals = "".join(
        f'<tr><th scope="row">{escape(each["goal"])}</th><td><b>{_breakable(each["name"])}</b></td>'
        f"<td>{escape(each['reason'])}</td></tr>"
        for each in report["recommendations"]
    )
    told = f'<table class="goals"><tbody>{goals}</tbody></table>' if goals else ""
    return (f'<div class="cards">{cards}</div>' if cards else "") + told


def _taking(report: Mapping[str, Any], name: str | None) -> str:
    """Return where an engine lies and the command that writes it into a folder, as far as the report says."""
    line = next((line for line in report["lines"] if line["name"] == name), None)
    if line is None:
        return ""
    key = line.get("engine_key")
    folder = f"In the store: <samp>engine/{escape(str(key))}</samp>. " if key else ""
    command = take(str((report.get("made") or {}).get("command") or ""), line, report["lines"])
    words = " ".join(f"<span>{escape(word)}</span>" for word in command.split(" "))  # lines break between words alone
    how = f"Take it into the folder <samp>engine</samp>:<pre><code>{words}</code></pre>" if command else ""
    return f'<div class="take">{folder}{how}</div>' if folder or how else ""


def chosen(report: Mapping[str, Any]) -> set[str]:
    """Names of the engines that are recommended for a scenario or a goal."""
    found = [each["name"] for each in (*_scenarios(report), *report["recommendations"])]
    return {name for name in found if name}


def _scenarios(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The report's own; older ones have none."""
    found: Sequence[Mapping[str, Any]] | None = report.get("scenarios")
    return scenarios(report["lines"]) if found is None else found


def filters(lines: Sequence[Line]) -> str:
    """Controls by which a script leaves engines out of table and figures."""

    def choice(name: str, label: str, values: Sequence[str]) -> str:
        options = "".join(f"<option>{escape(value)}</option>" for value in values)
        return f'<label>{label} <select name="{name}"><option value="">all</option>{options}</select></label>'

    runtimes = list(dict.fromkeys(line["engine"] for line in lines))
    parts = [choice("model", "Model", models(lines))] if len(models(lines)) > 1 else []
    parts += [choice("runtime", "Runtime", runtimes)] if len(runtimes) > 1 else []
    return (
        f'<form class="filters" role="search" aria-label="Filter engines">{"".join(parts)}'
        '<label>Name <input type="search" name="text" size="14"></label>'
        '<label><input type="checkbox" name="ships"> may be shipped</label>'
        '<button type="reset">Reset</button><output aria-live="polite"></output></form>'
    )


def certainty(report: Mapping[str, Any]) -> str:
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
        parts.append(f"<p><b>{escape(winner['name'])}</b> {escape(told)}.{under}</p>")
    items = [
        f"<li>{escape(found['model'] and found['model'] + ', ')}seed {found['seed']}: "
        f"{escape(', '.join(found['engines']))}</li>"
        for found in report.get("fronts") or ()
    ]
    if items:
        parts.append(f"<p>Beaten by no sound engine in accuracy, size and speed together:</p><ul>{''.join(items)}</ul>")
    return "".join(parts)


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


def made(report: Mapping[str, Any]) -> str:
    """Command, machine, versions, settings, and what was left out or failed."""
    found, settings = report.get("made") or {}, report.get("settings") or {}
    command = found.get("command")
    told = (
        f"<pre><code>{escape(command)}</code></pre>"
        if command
        else "<p>This report was written before reports kept their command; run its recipe again to have it here.</p>"
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
    listed = "".join(
        f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in items.items() if value not in (None, "")
    )
    missing = [("not applicable", each["name"], each["reason"]) for each in report["not_applicable"]]
    missing += [("failed", each["name"], each["error"]) for each in report["failed"]]
    missing += [("not timed", line["name"], line["error"]) for line in report["lines"] if line.get("error")]
    absent = "".join(f"<li>{kind}: <b>{escape(name)}</b>: {escape(why)}</li>" for kind, name, why in missing)
    told += f"<dl>{listed}</dl>" + (f"<h3>What is not here</h3><ul>{absent}</ul>" if absent else "")
    notes = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    return told + (f"<h3>Notes</h3><ul>{notes}</ul>" if notes else "")


def reading(report: Mapping[str, Any]) -> str:
    """The formula, what each column and mark means."""
    weights = report["weights"]
    formula = (
        f"{weights['accuracy']:g} · accuracy in percent + {weights['compression']:g} · times smaller + "
        f"{weights['speedup']:g} · times faster"
    )
    settings = report.get("settings") or {}
    rounds = f"median of {settings['rounds']} interleaved rounds" if settings.get("rounds") else "medians of rounds"
    items = {
        "score": f"{formula}, at {report['speedup']}",
        "times smaller, times faster": "bytes and time of its baseline over those of the engine; more is better",
        "accuracy": f"{report['split']} split with its 95 % Wilson interval; change: on the baseline's examples",
        "time": f"{rounds}; the engine alone, without its tokenizer, batches sorted by length",
        **notes(report),
        "≈": "the data do not settle whether the row or the one above it is ahead",
        "hollow, dashed": "a gate failed that an engine must pass: never recommended",
    }
    seen = {mark for line in report["lines"] for mark in line["marks"]}
    items |= {mark: text for mark, text in MARKS.items() if any(other.startswith(mark) for other in seen)}
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in items.items()) + "</dl>"


def _breakable(name: str) -> str:
    return escape(name).replace("/", "/<wbr>")
