"""Size, speed and accuracy of a report's engines as one SVG file, and which of them no other beats in all three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolchain.certainty.pareto import beats
from toolchain.deliver.report.charts import DEEP, Room, Scale, Side
from toolchain.deliver.report.figures import STATES, Figures, key
from toolchain.deliver.report.metric import ACCURACY
from toolchain.kinds.contract import Metric
from toolchain.layers.panels import label
from toolchain.measure.gates import BINDING

#: Pixels.
WIDTH, HEIGHT, GAP = 330, 300, 34
HEAD, LEFT, TOP, BOTTOM, LEGEND, LINE = 30, 56, 30, 52, 300, 16

#: How wide a figure of a label is, in pixels.
LETTER = 6.2

FRONT, BEHIND = "#1f6f8b", "#9aa5ab"


@dataclass(frozen=True)
class Point:
    """An engine.

    Attributes:
        label: What stands beside its mark: its rank; without one ``b`` for a baseline, and a dot.
        name: Its name.
        accuracy: Percent.
        values: What each chart has from left to right; all above 0.
        beaten: Whether a sound engine of its model and seed is at least as accurate, small and fast, and better in one.
        sound: Whether no gate failed that an engine must pass.
        baseline: Whether others are measured against it.
    """

    label: str
    name: str
    accuracy: float
    values: tuple[float, ...]
    beaten: bool
    sound: bool
    baseline: bool


def draw(title: str, rows: Sequence[Figures], setting: str, metric: Metric = ACCURACY) -> str | None:
    """Draws the metric over size, and over the speed at a setting; None where no engine was timed.

    Args:
        title: Stands above.
        rows: The report's figures, one per engine.
        setting: ``batch N``, whose speed against the baseline is drawn.
        metric: The metric.
    """
    points = found(rows, setting)
    if not points:
        return None
    charts = ("size, MB", f"times as fast as the baseline, {setting}")
    height = max(HEAD + TOP + HEIGHT + BOTTOM, HEAD + TOP + LINE * (len(points) + 7))
    width = LEFT + len(charts) * (WIDTH + GAP) + LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        label(LEFT, 22, title, size=13, weight="bold"),
    ]
    deepest = max(point.accuracy for point in points) - DEEP
    accuracies = Scale.around([max(point.accuracy, deepest) for point in points], logarithmic=False)
    for index, name in enumerate(charts):
        along = Scale.around([point.values[index] for point in points], logarithmic=True)
        parts += _chart(points, index, LEFT + index * (WIDTH + GAP), name, along, accuracies, metric)
    return "\n".join([*parts, *_legend(points, LEFT + len(charts) * (WIDTH + GAP)), "</svg>"]) + "\n"


def found(rows: Sequence[Figures], setting: str) -> list[Point]:
    """The engines that have a size, a speed and an accuracy.

    Args:
        rows: The report's figures, one per engine.
        setting: ``batch N``.
    """
    speed = f"speedup_{key(setting)}"
    timed = [row for row in rows if row.get(speed) is not None and not row["error"]]
    return [
        Point(
            label=_label(row), name=str(row["name"]),
            accuracy=_number(row, "accuracy_percent"),
            values=(_number(row, "size_mb"), _number(row, speed)),
            beaten=any(_beats(other, row, speed) for other in timed if _sound(other)),
            sound=_sound(row),
            baseline=bool(row["baseline"]),
        )
        for row in timed
    ]  # fmt: skip


def _label(row: Figures) -> str:
    """The rank; of those without one a baseline is ``b``, and others have a dot."""
    return str(row["rank"]) if row["rank"] is not None else "b" if row["baseline"] else "·"


def _sound(row: Figures) -> bool:
    return all(row.get(f"gate_{gate.replace(' ', '_')}") != STATES[False] for gate in BINDING)


def _beats(one: Figures, other: Figures, speed: str) -> bool:
    if (one["model"], one["seed"]) != (other["model"], other["seed"]):
        return False
    gains = [(_number(row, "accuracy_percent"), -_number(row, "size_mb"), _number(row, speed)) for row in (one, other)]
    return beats(*gains)


def _number(row: Figures, name: str) -> float:
    value = row[name]
    if not isinstance(value, int | float):
        raise TypeError(f"{name} of {row['name']} is no number: {value!r}")
    return float(value)


def _chart(
    points: Sequence[Point], index: int, left: float, title: str, along: Scale, up: Scale, metric: Metric
) -> list[str]:
    top, bottom = HEAD + TOP, HEAD + TOP + HEIGHT
    across, upward = Side(along, left, left + WIDTH), Side(up, bottom, top)
    parts = [label(left + WIDTH / 2, bottom + 38, title, anchor="middle")]
    if index == 0:
        parts.append(label(left - 40, top - 12, metric.axis))
    for y, shown in upward.ticks():
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts += [label(left - 6, y + 4, shown, anchor="end")] if index == 0 else []
    for x, shown in across.ticks():
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e4e4"/>')
        parts.append(label(x, bottom + 16, shown, anchor="middle"))
    parts.append(f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#555"/>')
    ordered = sorted(points, key=lambda point: not point.beaten)
    places = [(across.at(point.values[index]), upward.at(point.accuracy)) for point in ordered]
    parts += [_mark(point, *place) for point, place in zip(ordered, places, strict=True)]
    room = Room(places, left + WIDTH + GAP, LETTER)
    for point, place in [*zip(ordered, places, strict=True)][::-1]:  # those of the front first: they find room
        told = f"{point.label}: {point.accuracy:.1f}" if point.accuracy < up.low else point.label
        if at := room.take(place, told):  # what finds none has the legend alone
            weight = "normal" if point.beaten else "bold"
            parts.append(label(at.x, at.y, told, anchor=at.anchor, weight=weight))
    return parts


def _mark(point: Point, x: float, y: float) -> str:
    colour = BEHIND if point.beaten else FRONT
    fill = colour if point.sound else "white"
    if point.baseline:
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{fill}" stroke="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.2" fill="{fill}" stroke="{colour}" stroke-width="1.8"/>'


def _legend(points: Sequence[Point], left: float) -> list[str]:
    parts, y = [], HEAD + TOP + 4
    for point in points:
        parts.append(label(left, y, f"{point.label}  {point.name}", weight="normal" if point.beaten else "bold"))
        y += LINE
    told: Mapping[str, tuple[bool, bool, bool]] = {
        "no sound engine beats it in all three": (False, True, False),
        "a sound engine beats it": (True, True, False),
        "a gate failed: never recommended": (False, False, False),
        "baseline": (False, True, True),
    }
    for text, (beaten, sound, baseline) in told.items():
        y += LINE
        parts.append(_mark(Point("", "", 0, (), beaten, sound, baseline), left + 5, y - 4))
        parts.append(label(left + 18, y, text))
    return parts
