"""Pictures with one mark or one thread for each engine: the metric over another figure, and parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.deliver.report.charts import DEEP, Room, Scale, Side, take_line
from toolchain.deliver.report.figures import key, quantity, ratio, show
from toolchain.deliver.report.page import legend
from toolchain.deliver.report.page.lines import Line, front, label, method, models, number, sound
from toolchain.deliver.report.page.markup import Markup, fill, join
from toolchain.deliver.report.page.svg import LETTER, Picture, group, line, mark, text, thread
from toolchain.kinds.contract import Metric


@dataclass(frozen=True)
class Dimension:
    """A figure that engines are compared by.

    Attributes:
        name: Its name in a line.
        words: What it is, with its unit.
        more: Whether more of it is better.
        logarithmic: Whether equal ratios are equal distances.
    """

    name: str
    words: str
    more: bool
    logarithmic: bool = True


def abscissas(settings: Sequence[str]) -> list[Dimension]:
    """What the metric is drawn over: size, latency, and throughput at each batch size."""
    rates = [setting for setting in settings if setting != "batch 1"]
    return [
        Dimension("size_mb", "size, MB", more=False),
        *([Dimension("latency_engine_p50_ms", "latency at batch 1, ms", more=False)] if "batch 1" in settings else []),
        *(
            Dimension(f"per_s_sorted_engine_{key(setting)}", f"sentences/s at {setting}", more=True)
            for setting in rates
        ),
    ]


def scatter(
    lines: Sequence[Line], along: Dimension, metric: Metric, *, narrow: bool, shapes: str = "model",
    of: Sequence[int] | None = None,
) -> Picture | None:  # fmt: skip
    """The metric over another figure, with what no sound engine beats in both; None where no engine has both.

    Args:
        lines: The report's.
        along: The other figure.
        metric: The metric.
        narrow: Whether it is for a phone.
        shapes: What the lines' model stands for.
        of: The places of the lines in the page, where they are not all of its lines.
    """
    drawn = {
        index: (x, y)
        for index, each in enumerate(lines)
        if (x := number(each, along.name)) and (y := number(each, "accuracy_percent")) is not None
    }
    if not drawn:
        return None
    width, height = (360, 330) if narrow else (1000, 400)
    left, right, top, bottom = (34 if narrow else 44), width - 10, 22, height - 40
    deepest = max(y for _, y in drawn.values()) - DEEP
    along_x = Scale.around([x for x, _ in drawn.values()], logarithmic=True, most=6 if narrow else 12)
    across = Side(along_x, left, right)
    up = Side(Scale.around([max(y, deepest) for _, y in drawn.values()], logarithmic=False), bottom, top)
    places = {index: (across.at(x), up.at(y)) for index, (x, y) in drawn.items()}
    parts = [text(left - 30 if narrow else left - 40, 12, metric.axis, kind="tick"), *levels(up, left, right)]
    for x, shown in across.ticks():
        parts += [line(x, top, x, bottom, "rule"), text(x, bottom + 15, shown, anchor="middle", kind="tick")]
    better = "more is better" if along.more else "less is better"
    parts.append(text((left + right) / 2, bottom + 32, f"{along.words}; {better}", anchor="middle", kind="tick"))
    best = [index for index in front(lines, along.name, more=along.more) if index in places]
    parts.append(_staircase([places[index] for index in best]))
    of = of or range(len(lines))
    parts += _marks(lines, drawn, places, (along, metric), set(best), up.scale.low, right + 8, of)
    keys, taken = legend.draw(lines, height, width, shapes=shapes)
    title = f"{metric.title} over {along.words}; the line joins what no sound engine beats in both; numbers are ranks"
    return Picture(f"scatter-{along.name.replace('_', '-')}", title, width, height + taken, (*parts, *keys))


def levels(up: Side, left: float, right: float) -> list[Markup]:
    """The ticks of an upward side, and their lines through a picture."""
    return [
        part for y, shown in up.ticks()
        for part in (line(left, y, right, y, "rule"), text(left - 6, y + 4, shown, anchor="end", kind="tick"))
    ]  # fmt: skip


def _staircase(points: Sequence[tuple[float, float]]) -> Markup:
    if not points:
        return Markup("")
    steps = [f"M{points[0][0]:.1f} {points[0][1]:.1f}", *(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])]
    return fill('<path class="front" d="{}"/>', "".join(steps))


def _marks(
    lines: Sequence[Line],
    drawn: dict[int, tuple[float, float]],
    places: dict[int, tuple[float, float]],
    axes: tuple[Dimension, Metric],
    best: set[int],
    lowest: float,
    edge: float,
    of: Sequence[int],
) -> list[Markup]:
    """Marks with their numbers: first those of the front, so that theirs find room."""
    along, metric = axes
    shapes = {name: shape for shape, name in enumerate(models(lines))}
    room = Room(list(places.values()), edge, LETTER)
    parts = []
    for index in sorted(places, key=lambda index: (index not in best, index)):
        each, (x, y) = lines[index], places[index]
        value, accuracy = drawn[index]
        told = label(each) + (f": {show(accuracy, 1)}" if accuracy < lowest else "")
        at = room.take((x, y), told)
        named = text(at.x, at.y, told, anchor=at.anchor, kind="strong" if index in best else "") if at else Markup("")
        reached = f"{metric.name} {show(accuracy, 2)} {metric.unit}".rstrip()
        said = f"{each['name']}: {reached}, {along.words} {quantity(value)}"
        data = {"x": value, "y": accuracy, "front": "yes" if index in best else "no"}
        drawn_mark = mark(x, y, shapes[each["model"]]) + named
        parts.append(group(of[index], method(each), said, drawn_mark, data, hollow=not sound(each)))
    return parts[::-1]


def dimensions(settings: Sequence[str], metric: Metric) -> list[Dimension]:
    """The axes of the parallel coordinates: size, the metric, and speedup at each setting."""
    return [
        Dimension("size_mb", "size, MB", more=False),
        Dimension("accuracy_percent", metric.axis, more=True, logarithmic=False),
        *(Dimension(f"speedup_{key(setting)}", f"× at {setting}", more=True) for setting in settings),
    ]


def limited(settings: Sequence[str], metric: Metric) -> list[Dimension]:
    """Return the figures that a reader may limit: those of the axes, milliseconds and sentences a second."""
    times = [axis for axis in abscissas(settings) if axis.name != "size_mb"]
    axes = dimensions(settings, metric)
    return [*axes[:2], *times, *axes[2:]]


def parallel(lines: Sequence[Line], settings: Sequence[str], metric: Metric, *, narrow: bool) -> Picture | None:
    """A thread for each engine through its size, the metric and speedups; the better, the higher.

    Args:
        lines: The report's.
        settings: Those that were timed.
        metric: The metric.
        narrow: Whether it is for a phone.

    Returns:
        None where no engine has all of them.
    """
    axes = dimensions(settings, metric)
    whole = {
        index: [float(each[axis.name]) for axis in axes]
        for index, each in enumerate(lines)
        if all(number(each, axis.name) for axis in axes)
    }
    if not whole or len(axes) < 3:
        return None
    width, height = (360, 360) if narrow else (1000, 380)
    left, right, top, bottom = (36 if narrow else 60), width - (36 if narrow else 60), 44, height - 12
    places = [left + (right - left) * at / (len(axes) - 1) for at in range(len(axes))]
    sides = []
    for at, axis in enumerate(axes):
        values = [row[at] for row in whole.values()]
        if axis.name == "accuracy_percent":
            values = [max(value, max(values) - DEEP) for value in values]
        scale = Scale.around(values, logarithmic=axis.logarithmic, most=7)
        sides.append(Side(scale, bottom, top) if axis.more else Side(scale, top, bottom))
    threads: list[Markup] = []
    taken = [0.0]
    for index in sorted(whole):
        each = lines[index]
        points = [(places[at], sides[at].at(value)) for at, value in enumerate(whole[index])]
        drawn = thread(points)
        end = points[-1][1] + 4
        if take_line(end, taken):
            drawn += text(right + 9, end, label(each), kind="quiet")
        said = f"{each['name']}: " + ", ".join(
            f"{axis.words} {_shown(axis, value)}" for axis, value in zip(axes, whole[index], strict=True)
        )
        data = {axis.name.replace("_", "-"): value for axis, value in zip(axes, whole[index], strict=True)}
        threads.append(group(index, method(each), said, drawn, data, hollow=not sound(each)))
    parts: list[Markup] = []
    for at, axis in enumerate(axes):
        parts += _axis(axis, sides[at], places[at], top, bottom)
    keys, below = legend.draw(lines, height + 8, width)
    title = f"Size, {metric.name} and speedup of each engine; the higher on an axis, the better; numbers are ranks"
    return Picture("parallel", title, width, height + 8 + below, (*reversed(threads), *parts, *keys))


def _axis(axis: Dimension, side: Side, x: float, top: float, bottom: float) -> list[Markup]:
    scale = side.scale
    words = [
        text(x, 14, axis.words, anchor="middle", kind="strong"),
        text(x, 30, "up: more" if axis.more else "up: less", anchor="middle", kind="quiet"),
    ]
    parts = [line(x, top, x, bottom, "axis")]
    for y, shown in side.ticks():
        parts += [line(x - 4, y, x, y, "axis"), text(x - 7, y + 4, shown, anchor="end", kind="tick halo")]
    return [
        *words,
        fill(
            '<g class="dimension" data-name="{}" data-at="{:.1f}" data-top="{}" data-bottom="{}" data-low="{}" '
            'data-high="{}" data-log="{}" data-more="{}">\n{}\n</g>',
            axis.name, x, top, bottom, scale.low, scale.high, int(scale.logarithmic), int(axis.more), join(parts, "\n"),
        ),
    ]  # fmt: skip


def _shown(axis: Dimension, value: float) -> str:
    if axis.name.startswith("speedup"):
        return ratio(value)
    return show(value, 2) if axis.name == "accuracy_percent" else quantity(value)
