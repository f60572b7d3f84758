from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.deliver.test_report import PICTURES, lines_of, report, row, shown, three, timing
from toolchain.core.errors import DamagedError
from toolchain.deliver.report import csv_text, kept, markdown, terminal, to_json, write
from toolchain.deliver.report.figures import quantity, ratio, show
from toolchain.pipeline.limits import Limits


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
        printed = next(text.split() for text in screen.splitlines() if text.lstrip(" ≈-123").startswith(f"{name} "))
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
    assert "movement-pruned-50-" in text  # what is too long goes on in the next line, after a dash or a slash
    assert not any(line.strip().startswith(("ntropy", "nt8-", "n-pruned")) for line in text.splitlines())


def test_what_to_ship_stands_in_at_most_ten_lines_of_80_columns_below_the_table(tmp_path: Path) -> None:
    name = "movement-pruned-50-static-int8-entropy"
    long = row(tmp_path, name, range(20), 30, timing([4] * 4, [200] * 4), techniques=["static_int8"])
    found = report(
        [*three(tmp_path), long], limits=Limits(), notes=["a note"], not_applicable=[("a", "b")], speedup="batch 32"
    )
    command = f"toolchain build recipes/quickstart.yaml --variant {name} --engine ort -o engine"
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(terminal(found, command=command, page="artifacts/reports/quickstart/report.html"), crop=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    table, _, below = text.partition("\nship ")
    assert len(below.splitlines()) <= 10
    *lines, last = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert last == f"take  {command}"  # whole, so that it can be copied
    assert " ".join(below.split()).startswith(f"{name}/ort why best score of the 2 that may be shipped: 30.0 MB (3.33 ")
    for words in (
        command,
        "0.00 points of accuracy",
        "at most 0.5 points worse: cannot say",
        "(-v: 1 not applicable, 1 note)",
    ):
        assert words in " ".join(below.split())
    assert table.index("base/ort") < table.index("may not be shipped:") < table.index("zeros/ort")
    assert "accuracy too low" in table
    assert "Wilson" not in text
    verbose = Console(width=80, file=io.StringIO(), color_system=None)
    verbose.print(terminal(found, verbose=True))
    assert "Wilson" in verbose.file.getvalue()  # type: ignore[attr-defined]
    assert "labels changed" not in verbose.file.getvalue()  # type: ignore[attr-defined]  # no such column at 80


def test_where_nothing_may_be_shipped_that_is_said_with_the_reasons(tmp_path: Path) -> None:
    found = report(three(tmp_path), limits=Limits(size_mb=1))
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(terminal(found, command="toolchain choose reports/x"))
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "ship nothing: no engine may be shipped" in text
    assert text.endswith("next toolchain choose reports/x")
    assert "not too large (3); asked: at most 1 MB; at least 99 % of the best baseline's accuracy, as measured" in text
    assert to_json(found)["recommendations"] == []
    assert [each["name"] for each in to_json(found)["scenarios"]] == [None, None]


def test_terminal_json_and_markdown_have_the_same_rows_in_one_order_with_the_same_marks(tmp_path: Path) -> None:
    elsewhere = {"techniques": ["int8"], "provider": "CUDAExecutionProvider"}
    rows = [*three(tmp_path), row(tmp_path, "gone", range(20), 1, timing([1] * 4, [999] * 4), **elsewhere)]
    found = report(rows, limits=Limits())
    lines = to_json(found)["lines"]
    names = [line["name"] for line in lines]
    assert names == ["base/ort", "gone/ort", "int8/ort", "zeros/ort"]
    screen = shown(found, 100)
    assert sorted(names, key=lambda name: screen.index(f" {name} ")) == names
    ranked = [line for line in markdown(found).split("\n\n")[1].splitlines()[2:]]
    assert [cells.split(" | ")[1].strip("*") for cells in ranked] == names
    for line, cells in zip(lines, ranked, strict=True):
        assert cells.endswith(f"| {', '.join(line['marks'])} |")
        assert f"\n     {', '.join(line['marks'])}" in screen.replace("      ", "     ")


def test_what_is_missing_and_noted_is_said_in_every_text(tmp_path: Path) -> None:
    found = report(
        three(tmp_path),
        machine={"cpu": "Zx81", "physical_cores": 2, "memory_gib": 8},
        settings={"threads": 2, "rounds": 4, "sample": 512},
        not_applicable=[("qdq/pytorch", "takes a checkpoint")],
        failed=[("qat/ort", "no texts")],
        notes=["6 test sentences also stand in train"],
    )
    verbose = Console(width=160, file=io.StringIO(), color_system=None)
    verbose.print(terminal(found, verbose=True))
    for text in (markdown(found), verbose.file.getvalue()):  # type: ignore[attr-defined]
        for said in (
            "1 · accuracy in percent + 1 · times smaller + 1 · times faster, at batch 1",
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
    assert kept.read(tmp_path / "a") == json.loads(json.dumps(to_json(report(rows))))


def test_a_report_that_was_changed_is_not_read(tmp_path: Path) -> None:
    write(report(three(tmp_path)), tmp_path)
    file = tmp_path / "report.json"
    written = json.loads(file.read_text())
    written["lines"][0]["size_mb"] *= 2
    file.write_text(json.dumps(written))
    with pytest.raises(DamagedError, match="has been changed since it was written"):
        kept.read(file)
    del written["seal"]  # a report of an earlier version has none
    file.write_text(json.dumps(written))
    assert kept.read(file)["lines"][0]["size_mb"] == written["lines"][0]["size_mb"]
