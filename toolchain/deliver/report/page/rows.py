"""Pictures with one row for each engine: accuracies as bars, and times as ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.deliver.report.charts import DEEP, Scale, Side
from toolchain.deliver.report.figures import key, quantity, show
from toolchain.deliver.report.page import legend
from toolchain.deliver.report.page.lines import Line, label, method, models, number, short, sound
from toolchain.deliver.report.page.markup import Markup, fill, join
from toolchain.deliver.report.page.svg import Picture, dot, fit, group, line, text
from toolchain.kinds.contract import Metric

#: Pixels: room for what stands above the rows, and below them.
TOP, BOTTOM = 22, 12


@dataclass(frozen=True)
class Layout:
    """Where rows, names and values stand, in pixels.

    Attributes:
        width: Of the picture.
        left: Where the chart begins.
        right: Where it ends.
        row: Height of a row.
        narrow: Whether names and values stand above their rows rather than beside them.
    """

    width: int
    left: int
    right: int
    row: int
    narrow: bool

    @classmethod
    def of(cls, *, narrow: bool) -> Layout:
        """The layout for a phone, or for anything wider."""
        return cls(360, 4, 352, 36, True) if narrow else cls(1000, 270, 880, 22, False)

    def middle(self, top: float) -> float:
        """Where a row's bar has its middle."""
        return top + (26 if self.narrow else self.row / 2)

    def words(self, top: float, name: str, rank: str, value: str) -> Markup:
        """A row's rank, name and value."""
        y = top + 14 if self.narrow else top + self.row / 2 + 4
        room = (self.width - 30 - 6.4 * len(value)) if self.narrow else self.left - 40
        return (
            text(22, y, rank, anchor="end", kind="quiet")
            + text(28, y, fit(name, room), kind="name halo")
            + text(self.width - 2, y, value, anchor="end", kind="value halo")
        )

    def grid(self, scale: Scale, top: float, bottom: float, unit: str) -> list[Markup]:
        """The scale above the rows, and its lines through them."""
        parts = []
        for x, shown in Side(scale, self.left, self.right).ticks():
            anchor = "start" if x < self.left + 12 else "end" if x > self.right - 12 and self.narrow else "middle"
            parts += [line(x, top, x, bottom, "rule"), text(x, top - 6, f"{shown}{unit}", anchor=anchor, kind="tick")]
        return parts


def accuracy(lines: Sequence[Line], metric: Metric, *, narrow: bool) -> Picture | None:
    """The metric by model and method, with intervals; None where there is none.

    Args:
        lines: The report's.
        metric: The metric.
        narrow: Whether it is for a phone.
    """
    known = [index for index, each in enumerate(lines) if number(each, "accuracy_percent") is not None]
    if not known:
        return None
    layout = Layout.of(narrow=narrow)
    best = max(lines[index]["accuracy_percent"] for index in known)
    shown = [lines[index] for index in known if lines[index]["accuracy_percent"] > best - DEEP]
    ends = [each[f"accuracy_percent_{end}"] for each in shown for end in ("low", "high")]
    scale = Scale.around(ends, logarithmic=False, most=6 if narrow else 12)
    groups = models(lines)
    parts: list[Markup] = []
    y = float(TOP)
    for name in groups:
        if len(groups) > 1:
            parts.append(text(4 if narrow else 28, y + 16, name, kind="strong"))
            y += 26
        members = [index for index in known if lines[index]["model"] == name]
        start = y
        for index in members:
            parts.append(_bar(lines, index, scale, layout, y, metric))
            y += layout.row
        base = next((lines[index] for index in members if lines[index]["baseline"]), None)
        if base is not None:
            x = layout.left + (layout.right - layout.left) * max(0.0, scale.part(base["accuracy_percent"]))
            parts.append(line(x, start, x, y, "reference"))
        y += 8
    keys, height = legend.draw(lines, y + BOTTOM, layout.width)
    start_at = f"{scale.low:.1f} {metric.unit}".rstrip()
    name = f"{metric.title} in {metric.unit}" if metric.unit else metric.title
    title = f"{name} with 95 % intervals; bars begin at {start_at}; dashed: the model's baseline"
    grid = layout.grid(scale, TOP, y, "")
    return Picture("accuracy", title, layout.width, int(y + BOTTOM + height), (*grid, *parts, *keys))


def _bar(lines: Sequence[Line], index: int, scale: Scale, layout: Layout, top: float, metric: Metric) -> Markup:
    """The row of an engine; what is far below the others has no bar."""
    each = lines[index]
    value, low, high = (each[f"accuracy_percent{end}"] for end in ("", "_low", "_high"))
    middle, span = layout.middle(top), layout.right - layout.left
    ends = [layout.left + span * min(1.0, max(0.0, scale.part(at))) for at in (value, low, high)]
    half = 4 if layout.narrow else 6
    told = f"{show(value, 2)} ±{show((high - low) / 2, 2)}"
    parts = layout.words(top, short(each, lines, model=False), label(each), told)
    if value > scale.low:
        bar = '<rect class="bar" x="{}" y="{}" width="{:.1f}" height="{}"/>'
        parts += fill(bar, layout.left, middle - half, ends[0] - layout.left, 2 * half)
        parts += line(ends[1], middle, ends[2], middle, "whisker")
        parts += join(line(x, middle - half / 2, x, middle + half / 2, "whisker") for x in ends[1:])
    else:
        parts += text(layout.left + 2, middle + 4, "below the scale", kind="quiet")
    reached = f"{metric.name} {show(value, 2)} {metric.unit}".rstrip()
    said = f"{each['name']}: {reached} [{show(low, 2)}, {show(high, 2)}]"
    data = {"accuracy": value, "low": low, "high": high}
    return group(index, method(each), said, parts, data, hollow=not sound(each))


def ways(lines: Sequence[Line], settings: Sequence[str]) -> list[tuple[str, str]]:
    """What was timed, as ``(name, words)``: latency alone and with the tokenizer, throughput at each batch size."""
    found = [("engine", "batch 1, ms"), ("end_to_end", "batch 1 with tokenizer, ms")]
    found += [(key(setting), f"{setting}, sentences/s") for setting in settings if setting != "batch 1"]
    return [(name, words) for name, words in found if any(_timed(each, name) for each in lines)]


def _timed(each: Line, way: str) -> Mapping[str, Any]:
    """What was timed of an engine in one of ``ways``; empty when it was not."""
    settings, fast = (each.get("timing") or {}).get("settings") or {}, way.startswith("batch_")
    if fast:
        found = settings.get("throughput", {}).get(way.removeprefix("batch_"), {}).get("sorted", {}).get("engine")
    else:
        found = settings.get("latency", {}).get(way)
    return found if found and len(_quantiles(found, fast)) == (1 if fast else 3) else {}


def times(lines: Sequence[Line], way: str, words: str, *, narrow: bool) -> Picture:
    """How times were spread: quantiles of single calls, where they were kept, and the median of each round.

    Args:
        lines: The report's.
        way: One of ``ways``.
        words: What it is, with its unit.
        narrow: Whether it is for a phone.
    """
    fast = way.startswith("batch_")
    timed = {index: found for index, each in enumerate(lines) if (found := _timed(each, way))}
    order = sorted(timed, key=lambda index: (-1 if fast else 1) * _quantiles(timed[index], fast)[0])
    layout = Layout.of(narrow=narrow)
    values = [value for found in timed.values() for value in (*_quantiles(found, fast), *_rounds(found, fast))]
    scale = Scale.around(values, logarithmic=True, most=7 if narrow else 12)
    parts: list[Markup] = []
    y = float(TOP)
    for index in order:
        parts.append(_range(lines, index, timed[index], scale, layout, y, fast=fast))
        y += layout.row
    keys, height = legend.draw(lines, y + BOTTOM, layout.width)
    told = "tick: median; dots: rounds" if fast else "tick: median; thick to p90, thin to p99; dots: medians of rounds"
    title = f"Times at {words}; {told}"
    grid = layout.grid(scale, TOP, y, "")
    return Picture(f"times-{way}", title, layout.width, int(y + BOTTOM + height), (*grid, *parts, *keys))


def _quantiles(found: Mapping[str, Any], fast: bool) -> list[float]:
    names = ("median_per_s",) if fast else ("p50_ms", "p90_ms", "p99_ms")
    return [float(found[name]) for name in names if found.get(name)]


def _rounds(found: Mapping[str, Any], fast: bool) -> list[float]:
    return [float(value) for value in found.get("rounds_per_s" if fast else "rounds_ms", ())]


def _range(
    lines: Sequence[Line], index: int, found: Mapping[str, Any], scale: Scale, layout: Layout, top: float, *, fast: bool
) -> Markup:
    """The row of an engine."""
    each, middle, span = lines[index], layout.middle(top), layout.right - layout.left
    quantiles, rounds = _quantiles(found, fast), _rounds(found, fast)
    at = [layout.left + span * scale.part(value) for value in quantiles]
    told = show(quantiles[0]) if fast else f"{quantity(quantiles[0])} · p99 {quantity(quantiles[-1])}"
    parts = layout.words(top, short(each, lines, model=True), label(each), told)
    if not fast:
        parts += line(at[0], middle, at[2], middle, "whisker") + line(at[0], middle, at[1], middle, "thick")
    parts += join(dot(layout.left + span * scale.part(value), middle, 2.6, "round") for value in rounds)
    parts += line(at[0], middle - 7, at[0], middle + 7, "median")
    unit = "sentences/s" if fast else "ms"
    more = "" if fast else f", p90 {quantity(quantiles[1])}, p99 {quantity(quantiles[2])}"
    said = f"{each['name']}: median {quantity(quantiles[0])}{more} {unit}; {len(rounds)} rounds"
    data = {"quantiles": " ".join(map(str, quantiles)), "rounds": " ".join(map(str, rounds))}
    return group(index, method(each), said, parts, data, hollow=not sound(each))
