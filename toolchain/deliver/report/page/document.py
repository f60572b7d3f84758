"""The whole page: its sections in their order, and the figures beside it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from toolchain import __version__
from toolchain.deliver.report.figures import key, quantity, ratio, show
from toolchain.deliver.report.metric import of_report
from toolchain.deliver.report.page import lengths, planes, rows, sections, table
from toolchain.deliver.report.page.lines import Line, barred, number, settings_of
from toolchain.deliver.report.page.markup import Markup, fill, join, page
from toolchain.deliver.report.page.style import read, sheet
from toolchain.deliver.report.page.svg import Picture
from toolchain.kinds.contract import Metric

#: Words of a picture's two widths.
WIDTHS = (("wide", False), ("narrow", True))


def html(report: Mapping[str, Any], drawings: Sequence[tuple[str, str]] = ()) -> str:
    """The page of a report; it needs no network and, to be read, no script.

    Args:
        report: ``report.json``.
        drawings: ``(title, svg)`` of other pictures that belong to it, such as sensitivities of layers.
    """
    lines: Sequence[Line] = report["lines"]
    settings, metric = settings_of(lines), of_report(report)
    found = [
        ("ship", "What to ship", sections.choices(report)),
        ("table", "Engines", _table(lines, settings, sections.chosen(report), metric)),
        ("accuracy", metric.title, figure(accuracy(lines, metric))),
        ("size", "Size and speed", _scatters(lines, settings, metric)),
        ("parallel", "Trade-offs", _parallel(lines, settings, metric)),
        ("times", "Times", _times(lines, settings)),
        ("lengths", "Lengths", _lengths(lines, report.get("lengths"), metric)),
        ("certainty", "Certainty", sections.certainty(report)),
        ("seeds", "Over the seeds", _pooled(report.get("pooled") or [], settings, metric)),
        ("gates", "Gates", _gates(lines)),
        ("layers", "Layers", _drawings(drawings)),
        ("made", "How it was made", sections.made(report)),
        ("reading", "How to read this", sections.reading(report)),
        ("all", "Every figure", _every(lines)),
    ]
    title = f"{report['name'] or 'report'}: {len(lines)} engines"
    return assemble(title, sections.heading(report), found, known(lines, settings, metric))


def assemble(title: str, header: Markup, parts: Sequence[tuple[str, str, Markup]], engines: Markup) -> str:
    """A page of sections.

    Args:
        title: Of the window.
        header: What stands above all.
        parts: ``(anchor, name, body)``; those without a body are left out, and what follows a colon in a name stands
            above the section alone.
        engines: What the script needs to know, as JSON.
    """
    return page(
        version=__version__,
        title=title,
        style=f"\n{sheet()}",
        header=header,
        sections=[(anchor, name, body) for anchor, name, body in parts if body],
        engines=engines,
        script=f"\n{read('page.js')}",
    )


def pictures(report: Mapping[str, Any]) -> dict[str, str]:
    """The figures as files: ``accuracy.svg``, ``size.svg`` and ``parallel.svg``; those for which there are data.

    Args:
        report: ``report.json``.
    """
    lines = report["lines"]
    settings, metric = settings_of(lines), of_report(report)
    drawn = {
        "accuracy.svg": rows.accuracy(lines, metric, narrow=False),
        "size.svg": planes.scatter(lines, planes.abscissas(settings)[0], metric, narrow=False),
        "parallel.svg": planes.parallel(lines, settings, metric, narrow=False),
    }
    heading = sections.title(report)
    return {name: picture.alone(heading) for name, picture in drawn.items() if picture is not None}


def accuracy(lines: Sequence[Line], metric: Metric) -> Markup:
    """The bars, in both widths."""
    return both(rows.accuracy(lines, metric, narrow=narrow) for _, narrow in WIDTHS)


def both(drawn: Iterable[Picture | None]) -> Markup:
    """A picture in both widths, of which a screen shows one."""
    pairs = zip(WIDTHS, drawn, strict=True)
    return join((picture.inline(kind) for (kind, _), picture in pairs if picture is not None), "\n")


def figure(drawn: Markup, more: Markup | str = "") -> Markup:
    """A picture in both widths with its title above it; what comes before a semicolon stands out."""
    if not drawn:
        return Markup("")
    first, _, rest = drawn.partition('aria-label="')[2].partition('"')[0].partition("; ")
    return fill("<figure><figcaption><b>{}</b>; {}.</figcaption>\n{}\n{}</figure>", first, rest, drawn, more)


def _tabs(name: str, items: Sequence[tuple[str, Markup]]) -> Markup:
    """Pictures of which one is shown at a time, chosen by a radio button; no script is needed."""
    if len(items) == 1:
        return items[0][1]
    buttons = join(
        fill(
            '<input type="radio" name="{name}" id="{name}-{at}"{checked}><label for="{name}-{at}">{words}</label>',
            name=name, at=at, checked=" checked" if at == 0 else "", words=words,
        )
        for at, (words, _) in enumerate(items)
    )  # fmt: skip
    bodies = join(fill('<div class="tab">{}</div>', body) for _, body in items)
    return fill('<div class="tabs" role="group">{}{}</div>', buttons, bodies)


def _table(lines: Sequence[Line], settings: Sequence[str], chosen: Collection[str], metric: Metric) -> Markup:
    if not lines:
        return Markup("<p>No engine was evaluated.</p>")
    body = scroll(table.ranked(lines, settings, chosen, metric), "Ranking", table.RANKED)
    return sections.filters(lines) + body + table.meanings(lines, settings, metric)


def scroll(body: Markup, name: str, told: str, *, tall: bool = False) -> Markup:
    """A table that may be wider than the screen, with what is to be known of it below."""
    kind = "scroll tall" if tall else "scroll"
    return fill(
        '<p class="swipe">Swipe the table sideways for its other columns.</p>'
        '<div class="{}" role="region" aria-label="{}: table" tabindex="0">{}</div><p class="below">{}</p>',
        kind, name, body, told,
    )  # fmt: skip


def _scatters(lines: Sequence[Line], settings: Sequence[str], metric: Metric) -> Markup:
    items = []
    for along in planes.abscissas(settings):
        drawn = both(planes.scatter(lines, along, metric, narrow=narrow) for _, narrow in WIDTHS)
        if drawn:
            items.append((along.words, figure(drawn)))
    return _tabs("over", items) if items else Markup("")


def _parallel(lines: Sequence[Line], settings: Sequence[str], metric: Metric) -> Markup:
    drawn = both(planes.parallel(lines, settings, metric, narrow=narrow) for _, narrow in WIDTHS)
    form = fill(
        '<div class="limits" role="group" aria-label="Limits">Drag along an axis, or type limits: {}'
        '<button type="button">Clear</button><output aria-live="polite"></output></div>',
        join(_limit(axis) for axis in planes.limited(settings, metric)),
    )
    return figure(drawn, form)


def _limit(axis: planes.Dimension) -> Markup:
    """Two fields that say from where to where an axis is of interest."""
    field = '<input type="number" step="any" data-limit="{}" data-end="{}" aria-label="{}, {}">'
    low, high = (
        fill(field, axis.name, end, axis.words, words) for end, words in (("low", "at least"), ("high", "at most"))
    )
    return fill('<span class="limit">{} {} to {}</span>', axis.words, low, high)


def _times(lines: Sequence[Line], settings: Sequence[str]) -> Markup:
    items = []
    for way, words in rows.ways(lines, settings):
        drawn = both(rows.times(lines, way, words, narrow=narrow) for _, narrow in WIDTHS)
        items.append((words, figure(drawn)))
    return _tabs("spread", items) if items else Markup("")


def _lengths(lines: Sequence[Line], found: Mapping[str, Any] | None, metric: Metric) -> Markup:
    if not found:
        return Markup("")
    items = []
    for name, words in (("accuracy_percent", metric.axis), ("latency_ms", "latency at batch 1, ms")):
        drawn = both(lengths.threads(lines, found, name, words, narrow=narrow) for _, narrow in WIDTHS)
        items += [(words, figure(drawn))] if drawn else []
    return _tabs("length", items) if items else Markup("")


def _pooled(engines: Sequence[Line], settings: Sequence[str], metric: Metric) -> Markup:
    return scroll(table.pooled(engines, settings, metric), "Over the seeds", table.POOLED) if engines else Markup("")


def _gates(lines: Sequence[Line]) -> Markup:
    judged = any(line.get("gates") for line in lines)
    return scroll(table.gates(lines), "Gates", table.GATES) if judged else Markup("")


def _drawings(drawings: Sequence[tuple[str, str]]) -> Markup:
    """Pictures of others: as images, in which no script runs and whose style stays theirs."""
    return join(
        fill(
            '<figure class="drawn"><figcaption><b>{name}</b></figcaption>'
            '<img alt="{name}" src="data:image/svg+xml;base64,{svg}"></figure>',
            name=name, svg=b64encode(svg.encode()).decode(),
        )
        for name, svg in drawings
    )  # fmt: skip


def _every(lines: Sequence[Line]) -> Markup:
    if not lines:
        return Markup("")
    body = scroll(table.every(lines), "Every figure", table.EVERY, tall=True)
    return fill('<details class="more"><summary>Show all figures, to six digits</summary>{}</details>', body)


def known(lines: Sequence[Line], settings: Sequence[str], metric: Metric) -> Markup:
    """What the script needs to know of each engine, as JSON that may stand in a page."""
    found = []
    for line in lines:
        tip = [f"{show(line['accuracy_percent'], 2)} {metric.unit or metric.name}", f"{quantity(line['size_mb'])} MB"]
        for setting in settings:
            gain = number(line, f"speedup_{key(setting)}")
            tip += [f"{ratio(gain)} times faster at {setting}"] if gain is not None else []
        tip += line["marks"]
        known = {"name": line["name"], "model": line["model"], "runtime": line["engine"], "ships": not barred(line)}
        figures = {axis.name: number(line, axis.name) for axis in planes.limited(settings, metric)}
        found.append({**known, "tip": " · ".join(tip), "figures": figures})
    text = json.dumps(found, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
