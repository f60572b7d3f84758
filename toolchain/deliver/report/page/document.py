"""The whole page: its sections in their order, and the figures beside it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from toolchain import __version__
from toolchain.deliver.report.figures import key, quantity, ratio, show
from toolchain.deliver.report.page import lengths, planes, rows, sections, table
from toolchain.deliver.report.page.lines import Line, barred, number, settings_of
from toolchain.deliver.report.page.style import read, sheet
from toolchain.deliver.report.page.svg import Picture

#: Words of a picture's two widths.
WIDTHS = (("wide", False), ("narrow", True))


def html(report: Mapping[str, Any], drawings: Sequence[tuple[str, str]] = ()) -> str:
    """The page of a report; it needs no network and, to be read, no script.

    Args:
        report: ``report.json``.
        drawings: ``(title, svg)`` of other pictures that belong to it, such as sensitivities of layers.
    """
    lines: Sequence[Line] = report["lines"]
    settings = settings_of(lines)
    found = [
        ("ship", "What to ship", sections.choices(report)),
        ("table", "Engines", _table(lines, settings, sections.chosen(report))),
        ("accuracy", "Accuracy", figure(accuracy(lines))),
        ("size", "Size and speed", _scatters(lines, settings)),
        ("parallel", "Trade-offs", _parallel(lines, settings)),
        ("times", "Times", _times(lines, settings)),
        ("lengths", "Lengths", _lengths(lines, report.get("lengths"))),
        ("certainty", "Certainty", sections.certainty(report)),
        ("seeds", "Over the seeds", _pooled(report.get("pooled") or [], settings)),
        ("gates", "Gates", _gates(lines)),
        ("layers", "Layers", _drawings(drawings)),
        ("made", "How it was made", sections.made(report)),
        ("reading", "How to read this", sections.reading(report)),
        ("all", "Every figure", _every(lines)),
    ]
    title = f"{report['name'] or 'report'}: {len(lines)} engines"
    return assemble(title, sections.heading(report), found, known(lines, settings))


def assemble(title: str, header: str, parts: Sequence[tuple[str, str, str]], engines: str) -> str:
    """A page of sections.

    Args:
        title: Of the window.
        header: What stands above all.
        parts: ``(anchor, name, body)``; those without a body are left out, and what follows a colon in a name stands
            above the section alone.
        engines: What the script needs to know, as JSON.
    """
    kept = [(anchor, name, body) for anchor, name, body in parts if body]
    return Template(read("page.html")).substitute(
        version=__version__,
        title=escape(title),
        style=sheet(),
        header=header,
        navigation="".join(f'<a href="#{anchor}">{name.partition(":")[0]}</a>' for anchor, name, _ in kept),
        main="\n".join(
            f'<section id="{anchor}" aria-labelledby="h-{anchor}"><h2 id="h-{anchor}">{name}</h2>\n{body}\n</section>'
            for anchor, name, body in kept
        ),
        engines=engines,
        script=read("page.js"),
    )


def pictures(report: Mapping[str, Any]) -> dict[str, str]:
    """The figures as files: ``accuracy.svg``, ``size.svg`` and ``parallel.svg``; those for which there are data.

    Args:
        report: ``report.json``.
    """
    lines = report["lines"]
    settings = settings_of(lines)
    drawn = {
        "accuracy.svg": rows.accuracy(lines, narrow=False),
        "size.svg": planes.scatter(lines, planes.abscissas(settings)[0], narrow=False),
        "parallel.svg": planes.parallel(lines, settings, narrow=False),
    }
    heading = sections.title(report)
    return {name: picture.alone(heading) for name, picture in drawn.items() if picture is not None}


def accuracy(lines: Sequence[Line]) -> str:
    """The bars, in both widths."""
    return both(rows.accuracy(lines, narrow=narrow) for _, narrow in WIDTHS)


def both(drawn: Iterable[Picture | None]) -> str:
    """A picture in both widths, of which a screen shows one."""
    pairs = zip(WIDTHS, drawn, strict=True)
    return "\n".join(picture.inline(kind) for (kind, _), picture in pairs if picture is not None)


def figure(drawn: str, more: str = "") -> str:
    """A picture in both widths with its title above it; what comes before a semicolon stands out."""
    if not drawn:
        return ""
    first, _, rest = drawn.partition('aria-label="')[2].partition('"')[0].partition("; ")
    return f"<figure><figcaption><b>{first}</b>; {rest}.</figcaption>\n{drawn}\n{more}</figure>"


def _tabs(name: str, items: Sequence[tuple[str, str]]) -> str:
    """Pictures of which one is shown at a time, chosen by a radio button; no script is needed."""
    if len(items) == 1:
        return items[0][1]
    buttons = "".join(
        f'<input type="radio" name="{name}" id="{name}-{at}"{" checked" if at == 0 else ""}>'
        f'<label for="{name}-{at}">{escape(words)}</label>'
        for at, (words, _) in enumerate(items)
    )
    bodies = "".join(f'<div class="tab">{body}</div>' for _, body in items)
    return f'<div class="tabs" role="group">{buttons}{bodies}</div>'


def _table(lines: Sequence[Line], settings: Sequence[str], chosen: Collection[str]) -> str:
    if not lines:
        return "<p>No engine was evaluated.</p>"
    body = scroll(table.ranked(lines, settings, chosen), "Ranking", table.RANKED)
    return sections.filters(lines) + body + table.meanings(lines, settings)


def scroll(body: str, name: str, told: str, *, tall: bool = False) -> str:
    """A table that may be wider than the screen, with what is to be known of it below."""
    kind = "scroll tall" if tall else "scroll"
    region = f'<div class="{kind}" role="region" aria-label="{name}: table" tabindex="0">{body}</div>'
    return f'<p class="swipe">Swipe the table sideways for its other columns.</p>{region}<p class="below">{told}</p>'


def _scatters(lines: Sequence[Line], settings: Sequence[str]) -> str:
    items = []
    for along in planes.abscissas(settings):
        drawn = both(planes.scatter(lines, along, narrow=narrow) for _, narrow in WIDTHS)
        if drawn:
            items.append((along.words, figure(drawn)))
    return _tabs("over", items) if items else ""


def _parallel(lines: Sequence[Line], settings: Sequence[str]) -> str:
    drawn = both(planes.parallel(lines, settings, narrow=narrow) for _, narrow in WIDTHS)
    limits = "".join(_limit(axis) for axis in planes.limited(settings))
    form = f'<div class="limits" role="group" aria-label="Limits">Drag along an axis, or type limits: {limits}'
    return figure(drawn, form + '<button type="button">Clear</button><output aria-live="polite"></output></div>')


def _limit(axis: planes.Dimension) -> str:
    """Two fields that say from where to where an axis is of interest."""
    ends = " to ".join(
        f'<input type="number" step="any" data-limit="{axis.name}" data-end="{end}" '
        f'aria-label="{escape(axis.words)}, {words}">'
        for end, words in (("low", "at least"), ("high", "at most"))
    )
    return f'<span class="limit">{escape(axis.words)} {ends}</span>'


def _times(lines: Sequence[Line], settings: Sequence[str]) -> str:
    items = []
    for way, words in rows.ways(lines, settings):
        drawn = both(rows.times(lines, way, words, narrow=narrow) for _, narrow in WIDTHS)
        items.append((words, figure(drawn)))
    return _tabs("spread", items) if items else ""


def _lengths(lines: Sequence[Line], found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    items = []
    for name, words in lengths.FIGURES:
        drawn = both(lengths.threads(lines, found, name, words, narrow=narrow) for _, narrow in WIDTHS)
        items += [(words, figure(drawn))] if drawn else []
    return _tabs("length", items)


def _pooled(found: Sequence[Line], settings: Sequence[str]) -> str:
    return scroll(table.pooled(found, settings), "Over the seeds", table.POOLED) if found else ""


def _gates(lines: Sequence[Line]) -> str:
    return scroll(table.gates(lines), "Gates", table.GATES) if any(line.get("gates") for line in lines) else ""


def _drawings(drawings: Sequence[tuple[str, str]]) -> str:
    """Pictures of others: as images, in which no script runs and whose style stays theirs."""
    return "".join(
        f'<figure class="drawn"><figcaption><b>{escape(name)}</b></figcaption>'
        f'<img alt="{escape(name)}" src="data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"></figure>'
        for name, svg in drawings
    )


def _every(lines: Sequence[Line]) -> str:
    if not lines:
        return ""
    body = scroll(table.every(lines), "Every figure", table.EVERY, tall=True)
    return f'<details class="more"><summary>Show all figures, to six digits</summary>{body}</details>'


def known(lines: Sequence[Line], settings: Sequence[str]) -> str:
    """What the script needs to know of each engine, as JSON that may stand in a page."""
    found = []
    for line in lines:
        tip = [f"{show(line['accuracy_percent'], 2)} %", f"{quantity(line['size_mb'])} MB"]
        for setting in settings:
            gain = number(line, f"speedup_{key(setting)}")
            tip += [f"{ratio(gain)} times faster at {setting}"] if gain is not None else []
        tip += line["marks"]
        known = {"name": line["name"], "model": line["model"], "runtime": line["engine"], "ships": not barred(line)}
        figures = {axis.name: number(line, axis.name) for axis in planes.limited(settings)}
        found.append({**known, "tip": " · ".join(tip), "figures": figures})
    return json.dumps(found, ensure_ascii=False).replace("<", "\\u003c")
