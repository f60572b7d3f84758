from __future__ import annotations

from itertools import pairwise

import pytest

from toolchain.deliver.report.charts import Room, Scale, Side

LETTER = 6.0


def test_no_number_covers_a_mark_or_another_number() -> None:
    marks = [(100.0, 100.0), (111.0, 95.0), (104.0, 109.0), (180.0, 100.0)]
    room = Room(marks, 400, LETTER)
    spots = [room.take(mark, str(index)) for index, mark in enumerate(marks)]
    found = [spot for spot in spots if spot is not None]
    assert len(found) == len(marks)
    for spot in found:
        middle = spot.x + {"start": LETTER / 2, "end": -LETTER / 2, "middle": 0}[spot.anchor]
        assert all(abs(middle - x) > 8 or abs(spot.y - 4 - y) > 8 for x, y in marks)
    by_height = sorted(found, key=lambda spot: spot.y)
    assert all(abs(one.x - other.x) > 16 or abs(one.y - other.y) > 11 for one, other in pairwise(by_height))


def test_what_would_leave_the_picture_stands_at_the_other_side() -> None:
    assert getattr(Room([(395.0, 50.0)], 400, LETTER).take((395.0, 50.0), "12"), "anchor", "") == "end"


def test_where_marks_leave_no_room_there_is_no_number() -> None:
    crowd = [(100.0 + x, 100.0 + y) for x in range(-20, 21, 4) for y in range(-24, 25, 4)]
    assert Room(crowd, 400, LETTER).take((100.0, 100.0), "1") is None


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((1.0, 1.47), ["0.8", "1", "1.2", "1.4", "1.6", "1.8"]),
        ((90.9, 91.6), ["75", "80", "85", "90", "95", "100", "105", "110"]),
        ((0.0021, 0.0024), ["0.0018", "0.002", "0.0022", "0.0024", "0.0026", "0.0028"]),
        ((1.0, 4.5), ["1", "2", "3", "5"]),
    ],
)
def test_a_logarithmic_scale_has_ticks_to_read_values_by_however_narrow(
    values: tuple[float, ...], labels: list[str]
) -> None:
    scale = Scale.around(values, logarithmic=True)
    assert [label for _, label in Side(scale, 0, 100).ticks()] == labels
