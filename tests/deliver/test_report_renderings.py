from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.deliver.test_report import PICTURES, lines_of, report, row, shown, three, timing
from toolchain.deliver.report import csv_text, markdown, to_json, write
from toolchain.deliver.report.figures import quantity, ratio, show


def test_every_rendering_says_the_same(tmp_path: Path) -> None:
    found = report(three(tmp_path), name="r")
    lines = lines_of(found)
    rows = {line["name"]: line for line in csv.DictReader(io.StringIO(csv_text(found)))}
    text, screen = markdown(found), shown(found, 120)
    assert list(rows) == list(lines)
    for name, line in lines.items():
        assert set(rows[name]) <= set(line)
        for key, value in line.items():
            if isinstance(value, float):
                assert float(rows[name][key]) == value
        cells = [
            show(line["accuracy_percent"], 2),
            quantity(line["size_mb"]),
            ratio(line["compression"]),
            quantity(line["latency_engine_p50_ms"]),
            ratio(line["speedup_batch_1"]),
            show(line["per_s_sorted_engine_batch_32"]),
            ratio(line["speedup_batch_32"]),
            show(line["score"], 2),
        ]
        printed = next(text.split() for text in screen.splitlines() if text.lstrip(" ≈123").startswith(f"{name} "))
        ranked = next(printed for printed in text.splitlines() if printed.startswith("|") and name in printed)
        assert [cell for cell in cells if cell not in printed] == []
        assert [cell for cell in cells if f"{cell} " not in ranked] == []


def test_a_markdown_row_holds_the_figures_in_reading_order(tmp_path: Path) -> None:
    ranked = next(line for line in markdown(report(three(tmp_path))).splitlines() if "int8/ort" in line)
    assert ranked == "| 1 | int8/ort | 88.00 [82.77, 91.80] | 25.0 | 4.00 | 5.00 | 2.00 | 300 | 3.00 | 94.00 |  |"


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_the_terminal_table_fits_its_width(tmp_path: Path, width: int) -> None:
    long = row(tmp_path, "movement-pruned-50-static-int8-entropy", range(20), 30, timing([4] * 4, [200] * 4))
    text = shown(report([*three(tmp_path), long]), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "88.00" in text
    assert "94.00" in text


def test_what_is_missing_and_noted_is_said_in_every_text(tmp_path: Path) -> None:
    found = report(
        three(tmp_path),
        machine={"cpu": "Zx81", "physical_cores": 2, "memory_gib": 8},
        settings={"threads": 2, "rounds": 4, "sample": 512},
        not_applicable=[("qdq/pytorch", "takes a checkpoint")],
        failed=[("qat/ort", "no texts")],
        notes=["6 test sentences also stand in train"],
    )
    for text in (markdown(found), shown(found, 160)):
        for said in (
            "1·A + 1·CR + 1·IS at batch 1",
            "Zx81, 2 cores, 8 GiB",
            "4 interleaved rounds on 512 texts, 2 threads",
            "qdq/pytorch: takes a checkpoint",
            "qat/ort: no texts",
            "6 test sentences also stand in train",
            "accuracy on 200 test examples",
        ):
            assert said in text


def test_energy_is_reported_where_it_was_counted_and_absent_elsewhere(tmp_path: Path) -> None:
    counted = {
        "latency": {"engine": {"gpu-0": 0.5, "package-0": 0.25}},
        "throughput": {"32": {"sorted": {"engine": {}}}},
    }
    timed = {**timing([10] * 4, [100] * 4), "energy_j": counted}
    found = report([row(tmp_path, "base", range(20), 100, timed, baseline=True)])
    (line,) = to_json(found)["lines"]
    assert line["energy_j_batch_1"] == 0.75
    assert line["energy_j_batch_32"] is None
    assert "| base/ort | 0.750 | - |" in markdown(found)
    assert "Energy" not in markdown(report(three(tmp_path / "without")))


def test_written_files_are_the_renderings_and_do_not_change(tmp_path: Path) -> None:
    rows = three(tmp_path)
    write(report(rows), tmp_path / "a")
    write(report(rows), tmp_path / "b")
    names = sorted([*PICTURES, "report.csv", "report.html", "report.json", "report.md"])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "a" / "report.json").read_text()) == to_json(report(rows))
